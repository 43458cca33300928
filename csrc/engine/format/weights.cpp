// Tensors of a file as numbers.

#include "engine/format/weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "engine/format/error.h"
#include "engine/format/pixels.h"

namespace micronet::engine {
namespace {

std::string named(const std::string& name) { return "tensor '" + name + "'"; }

int64_t bytes_for_bits(int64_t bits) { return (bits + 7) / 8; }

// A stream of bits, the lowest of a byte first.
struct Bits {
  std::span<const uint8_t> bytes;
  int64_t at = 0;

  bool next() {
    const bool bit = bytes[static_cast<size_t>(at / 8)] >> (at % 8) & 1;
    ++at;
    return bit;
  }

  // Up to eight.
  int next(int count) {
    const size_t byte = static_cast<size_t>(at / 8);
    int word = bytes[byte];
    if (byte + 1 < bytes.size()) word |= bytes[byte + 1] << 8;
    word = word >> (at % 8) & ((1 << count) - 1);
    at += count;
    return word;
  }

  void check_rest(const std::string& what) {
    while (at < static_cast<int64_t>(bytes.size()) * 8) {
      require(!next(), what + " has a bit behind the last one");
    }
  }
};

// How the matrix of a layer's blocks lies in its weights.
struct Matrix {
  bool channels_last;
  int64_t depth, channels, area;

  explicit Matrix(const Layer& of)
      : channels_last(of.channels_last),
        depth(of.depth()),
        channels(of.shape[1]),
        area(of.is_conv() ? of.shape[2] * of.shape[3] : 1) {}

  // The weight that an entry is.
  int64_t place(int64_t row, int64_t column) const {
    if (!channels_last) return row * depth + column;
    return row * depth + column % channels * area + column / channels;
  }
};

int64_t mask_bits(const Layer& layer) {
  if (layer.layout == Layout::kBitMask) return layer.numel();
  const auto [rows, columns] = layer.block;
  return (layer.outputs() + rows - 1) / rows * ((layer.depth() + columns - 1) / columns);
}

// Puts stored weights, as many as the mask has bits, where there is one. Whether there is cannot be
// guessed, so nothing branches on it.
template <typename T>
void expand_bits(const Matrix& matrix, const std::vector<uint8_t>& mask, std::vector<T> stored,
                 std::vector<T>* all) {
  stored.push_back(T{});  // is read behind the last one
  const int64_t rows = static_cast<int64_t>(all->size()) / matrix.depth;
  size_t next = 0;
  int64_t bit = 0;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < matrix.depth; ++column, ++bit) {
      const bool is_kept = mask[static_cast<size_t>(bit / 8)] >> (bit % 8) & 1;
      T* to = all->data() + matrix.place(row, column);
      *to = is_kept ? stored[next] : *to;
      next += is_kept;
    }
  }
}

size_t count_bits(const std::vector<uint8_t>& bytes) {
  size_t count = 0;
  for (const uint8_t byte : bytes) count += static_cast<size_t>(std::popcount(byte));
  return count;
}

// Puts stored weights [layer.values] where the mask keeps one; raises Refused where it keeps
// others. A bit of a mask keeps as many rows and columns as a block has.
template <typename T>
void expand(const Layer& layer, const std::vector<uint8_t>& mask, const std::vector<T>& stored,
            std::vector<T>* all) {
  const Matrix matrix(layer);
  const std::string sentence = "layer '" + layer.name + "': its mask does not keep " +
                               std::to_string(layer.values) + " weights";
  if (layer.layout == Layout::kBitMask) {
    require(count_bits(mask) == stored.size(), sentence);
    return expand_bits(matrix, mask, stored, all);
  }
  const bool is_dense = layer.layout == Layout::kDense;
  const auto [rows, columns] = is_dense ? Pair{1, matrix.depth} : layer.block;
  const int64_t row_bits = (matrix.depth + columns - 1) / columns;
  size_t next = 0;
  for (int64_t row = 0; row < layer.outputs(); ++row) {
    int64_t bit = row / rows * row_bits;
    for (int64_t first = 0; first < matrix.depth; first += columns, ++bit) {
      if (!is_dense && !(mask[static_cast<size_t>(bit / 8)] >> (bit % 8) & 1)) continue;
      for (int64_t column = first; column < std::min(first + columns, matrix.depth); ++column) {
        if (next == stored.size()) refuse(sentence);
        (*all)[static_cast<size_t>(matrix.place(row, column))] = stored[next++];
      }
    }
  }
  require(next == stored.size(), sentence);
}

std::vector<uint8_t> zeros_of(const Layer& layer, const std::vector<uint8_t>& zero_point) {
  std::vector<uint8_t> all(static_cast<size_t>(layer.numel()));
  const size_t depth = static_cast<size_t>(layer.depth());
  for (size_t o = 0; o < zero_point.size(); ++o) {
    std::fill_n(all.begin() + static_cast<std::ptrdiff_t>(o * depth), depth, zero_point[o]);
  }
  return all;
}

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
  const int64_t groups = (count + size - 1) / size;
  Bits bits{bytes_of(name, false, bytes_for_bits(groups * width))};
  std::vector<uint8_t> found(static_cast<size_t>(count));
  for (int64_t group = 0; group < groups; ++group) {
    int rest = bits.next(static_cast<int>(width));
    for (int64_t i = group * size; i < (group + 1) * size; ++i) {
      // The last of a group is what is left, so that a number beyond the group's is seen.
      const bool is_last = i + 1 == (group + 1) * size;
      const int code = is_last ? rest : rest % levels;
      rest /= levels;
      if (code >= levels) {
        refuse(named(name) + " has the code " + std::to_string(code) + " of " +
               std::to_string(levels) + " levels");
      }
      if (i >= count && code != 0) refuse(named(name) + " has a code behind the last one");
      if (i < count) found[static_cast<size_t>(i)] = static_cast<uint8_t>(code);
    }
  }
  bits.check_rest(named(name));
  return found;
}

std::vector<uint8_t> Tensors::kept(const Layer& layer) {
  if (layer.layout == Layout::kDense) return {};
  const std::string name = layer.owner() + ".weight_mask";
  const std::span<const uint8_t> bytes = bytes_of(name, false, bytes_for_bits(mask_bits(layer)));
  Bits(bytes, mask_bits(layer)).check_rest(named(name));
  return {bytes.begin(), bytes.end()};
}

LayerTensors Tensors::of_layer(const Layer& layer, const Document& document) {
  LayerTensors found;
  const std::string name = layer.name + ".";
  const std::string owner = document.layers.at(layer.owner()).name + ".";
  const std::vector<uint8_t> mask = kept(layer);
  if (layer.levels > 0) {
    found.scale = floats(name + "weight_scale", layer.outputs());
    found.zero_point = codes(name + "weight_zero_point", layer.outputs(), layer.levels,
                             {1, code_bits(layer.levels)});
    const std::vector<uint8_t> stored =
        codes(owner + "weight_packed", layer.values, layer.levels, layer.packing);
    found.codes = zeros_of(layer, found.zero_point);
    expand(layer, mask, stored, &found.codes);
  } else {
    const std::vector<float> stored = floats(owner + "weight", layer.values);
    found.floats.resize(static_cast<size_t>(layer.numel()));
    expand(layer, mask, stored, &found.floats);
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
