// Tensors of a file as numbers.

#include "engine/format/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/format/codes.h"
#include "engine/format/error.h"
#include "engine/format/masks.h"
#include "engine/format/pixels.h"

namespace micronet::engine {
namespace {

std::string named(const std::string& name) { return "tensor '" + name + "'"; }

}  // namespace

std::span<const uint8_t> Tensors::bytes_of(const std::string& name, bool is_float, int64_t bytes) {
  const auto found = container_.tensors.find(name);
  require(found != container_.tensors.end(), named(name) + " is missing");
  const StoredTensor& tensor = found->second;
  require(tensor.is_float == is_float,
          named(name) + " must have type " + (is_float ? "F32" : "U8"));
  require(static_cast<int64_t>(tensor.bytes.size()) == bytes,
          named(name) + " has " + std::to_string(tensor.bytes.size()) + " bytes, but must have " +
              std::to_string(bytes));
  used_[name] = true;
  return tensor.bytes;
}

std::vector<float> Tensors::floats(const std::string& name, int64_t count) {
  const std::span<const uint8_t> bytes = bytes_of(name, true, 4 * count);
  std::vector<float> values(static_cast<size_t>(count));
  if (count > 0) std::memcpy(values.data(), bytes.data(), bytes.size());
  const auto is_finite = [](float value) { return std::isfinite(value); };
  require(std::all_of(values.begin(), values.end(), is_finite),
          named(name) + " has a value that is not finite");
  return values;
}

std::vector<uint8_t> Tensors::codes(const std::string& name, int64_t count, int levels,
                                    Pair packing) {
  const auto [size, width] = packing;
  const int64_t bits = (count + size - 1) / size * width;
  return unpack_codes(bytes_of(name, false, bytes_for_bits(bits)), count, levels, packing,
                      named(name));
}

std::span<const uint8_t> Tensors::kept(const Layer& layer) {
  if (layer.layout == Layout::kDense) return {};
  const std::string name = layer.owner() + ".weight_mask";
  const std::span<const uint8_t> bytes = bytes_of(name, false, bytes_for_bits(mask_bits(layer)));
  check_no_bit_behind(bytes, mask_bits(layer), named(name));
  return bytes;
}

LayerTensors Tensors::of_layer(const Layer& layer, const Document& document) {
  LayerTensors found;
  const std::string name = layer.name + ".";
  const std::string owner = document.layers.at(layer.owner()).name + ".";
  const std::span<const uint8_t> mask = kept(layer);
  if (layer.levels > 0) {
    found.scale = floats(name + "weight_scale", layer.outputs());
    found.zero_point = codes(name + "weight_zero_point", layer.outputs(), layer.levels,
                             {1, code_bits(layer.levels)});
    found.codes = expand(layer, mask,
                         codes(owner + "weight_packed", layer.values, layer.levels, layer.packing),
                         found.zero_point);
  } else {
    const std::vector<float> pruned(static_cast<size_t>(layer.outputs()), 0.0f);
    found.floats = expand(layer, mask, floats(owner + "weight", layer.values), pruned);
  }
  if (layer.sums == Sums::kFloat) {
    for (const float scale : found.scale) {
      require(scale > 0.0f, named(name + "weight_scale") + " has a value that is not positive");
    }
  }
  if (layer.has_norm_scale) found.norm_scale = floats(name + "norm_scale", layer.outputs());
  if (layer.has_bias) found.bias = floats(name + "bias", layer.outputs());
  return found;
}

// Of grey values both follow from the normalization.
StoredQuantizer Tensors::grey_quantizer(const Node& node) {
  const float scale = floats(node.name + "_scale", 1)[0];
  const int64_t channels = static_cast<int64_t>(node.mean.size());
  const std::vector<uint8_t> border =
      codes(node.name + "_zero_point", channels, node.levels, {1, code_bits(node.levels)});
  float largest = 0.0f;
  for (size_t c = 0; c < border.size(); ++c) {
    const GreyScale of(node.mean[c], node.std[c]);
    largest = std::max(largest, of.deviation);
    require(border[c] == GreyScale::code(of.grey(0.0f)),
            named(node.name + "_zero_point") + " is not the grey value of 0");
  }
  require(scale == 255.0f / (255.0f / largest),
          named(node.name + "_scale") + " is not that of the largest deviation");
  return {scale, 0, node.levels};
}

StoredQuantizer Tensors::quantizer(const Node& node) {
  if (node.kind == Kind::kPixels) return grey_quantizer(node);
  const float scale = floats(node.name + "_scale", 1)[0];
  require(scale > 0.0f, named(node.name + "_scale") + " is not positive");
  const Pair packing{1, code_bits(node.levels)};
  const int zero = codes(node.name + "_zero_point", 1, node.levels, packing)[0];
  return {scale, zero, node.levels};
}

std::vector<uint8_t> Tensors::table(const Node& node, int entries) {
  return codes(node.name + "_table", entries, node.levels, {1, code_bits(node.levels)});
}

void Tensors::finish() const {
  for (const auto& [name, tensor] : container_.tensors) {
    require(used_.contains(name), named(name) + " is read by nothing");
  }
}

}  // namespace micronet::engine
