// Integers and floats of codes.

#include "engine/steps/layer_weights.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace micronet::engine {
namespace {

// Of the codes of a channel: their sum, and the sum were each at least the code of zero.
struct CodeSums {
  int64_t all = 0, raised = 0;
};

CodeSums sums_of(const uint8_t* codes, size_t count, uint8_t zero) {
  constexpr size_t kMost = 256;  // codes of which 16 bits hold the sum
  CodeSums sums;
  for (size_t some; count > 0; codes += some, count -= some) {
    some = std::min(count, kMost);
    uint16_t all = 0, raised = 0;
    for (size_t i = 0; i < some; ++i) {
      const uint8_t code = codes[i], most = code > zero ? code : zero;
      all = static_cast<uint16_t>(all + code);
      raised = static_cast<uint16_t>(raised + most);
    }
    sums.all += all, sums.raised += raised;
  }
  return sums;
}

// Codes less the zero points of their channels; empty where one takes more than a byte.
std::vector<int8_t> integers_of(const Layer& layer, const LayerTensors& tensors) {
  std::vector<int8_t> integers(tensors.codes.size());
  const size_t depth = static_cast<size_t>(layer.depth());
  bool are_bytes = true;
  for (size_t o = 0; o < tensors.zero_point.size(); ++o) {
    const uint8_t* codes = tensors.codes.data() + o * depth;
    int8_t* to = integers.data() + o * depth;
    const int zero = tensors.zero_point[o];
    int beyond = 0;
    for (size_t k = 0; k < depth; ++k) {
      const int whole = codes[k] - zero;
      to[k] = static_cast<int8_t>(whole);
      beyond |= whole ^ to[k];
    }
    are_bytes &= beyond == 0;
  }
  if (!are_bytes) integers.clear();
  return integers;
}

std::vector<int8_t> bytes_of(const std::vector<float>& weights) {
  std::vector<int8_t> bytes(weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    const float clipped = std::clamp(weights[i], -128.0f, 127.0f);
    bytes[i] = static_cast<int8_t>(clipped);
    // -0 is no whole number: its products have another sign.
    const float again = static_cast<float>(bytes[i]);
    if (std::memcmp(&again, &weights[i], sizeof(float)) != 0) return {};
  }
  return bytes;
}

}  // namespace

std::vector<int64_t> bounds_of(const Layer& layer, const LayerTensors& tensors,
                               const StoredQuantizer& input) {
  const size_t depth = static_cast<size_t>(layer.depth());
  const int64_t least = -input.zero_point, most = input.levels - 1 - input.zero_point;
  std::vector<int64_t> bounds(tensors.scale.size());
  for (size_t o = 0; o < bounds.size(); ++o) {
    const uint8_t zero = tensors.zero_point[o];
    const CodeSums sums = sums_of(tensors.codes.data() + o * depth, depth, zero);
    // The sums of the weights above zero and of those below.
    const int64_t positive = sums.raised - zero * layer.depth();
    const int64_t negative = sums.all - sums.raised;
    const int64_t low = positive * least + negative * most,
                  high = positive * most + negative * least;
    bounds[o] = std::max(std::abs(low), std::abs(high));
  }
  return bounds;
}

std::vector<float> floats_of(const Layer& layer, const LayerTensors& tensors) {
  if (layer.levels == 0) return tensors.floats;
  std::vector<float> values(tensors.codes.size());
  const size_t depth = static_cast<size_t>(layer.depth());
  for (size_t i = 0; i < values.size(); ++i) {
    const int whole = int{tensors.codes[i]} - tensors.zero_point[i / depth];
    values[i] = static_cast<float>(whole);
    if (layer.sums == Sums::kFloat) values[i] = values[i] / tensors.scale[i / depth];
  }
  return values;
}

LinearWeights::LinearWeights(const Layer& layer, const LayerTensors& tensors) {
  const bool are_integers = layer.levels > 0 && layer.sums != Sums::kFloat;
  if (are_integers) bytes = integers_of(layer, tensors);
  if (!bytes.empty()) return;
  floats = floats_of(layer, tensors);
  if (!are_integers) bytes = bytes_of(floats);
  if (!bytes.empty()) floats = {};
}

}  // namespace micronet::engine
