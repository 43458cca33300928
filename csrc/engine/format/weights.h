// Tensors of a file as numbers: bits, codes, masks, floats.
#ifndef MICRONET_ENGINE_FORMAT_WEIGHTS_H_
#define MICRONET_ENGINE_FORMAT_WEIGHTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/format/container.h"
#include "engine/format/document.h"

namespace micronet::engine {

// A layer's tensors. `codes` or `floats` are all weights, [O, C / groups, KH, KW] or [O, K].
struct LayerTensors {
  std::vector<uint8_t> codes;
  std::vector<float> floats;
  std::vector<float> scale, norm_scale, bias;  // [O], empty where there is none
  std::vector<uint8_t> zero_point;             // [O]
};

// What makes values of codes: code c has the value (c - zero_point) / scale.
struct StoredQuantizer {
  float scale;
  int zero_point, levels;
};

// The tensors of a container, each of which has to be asked for.
class Tensors {
 public:
  explicit Tensors(const Container& container) : container_(container) {}

  // Raise Refused where a tensor is missing, has another type or size, or holds what it cannot.
  LayerTensors of_layer(const Layer& layer, const Document& document);
  StoredQuantizer quantizer(const Node& node);
  std::vector<uint8_t> table(const Node& node, int entries);

  // Raises Refused where a tensor was not asked for.
  void finish() const;

 private:
  std::span<const uint8_t> bytes_of(const std::string& name, bool is_float, int64_t bytes);
  std::vector<float> floats(const std::string& name, int64_t count);
  std::vector<uint8_t> codes(const std::string& name, int64_t count, int levels, Pair packing);
  std::span<const uint8_t> kept(const Layer& layer);
  StoredQuantizer grey_quantizer(const Node& node);

  const Container& container_;
  std::map<std::string, bool, std::less<>> used_;
};

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_FORMAT_WEIGHTS_H_
