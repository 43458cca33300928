// Weights that are stored, put where a mask keeps one.
#ifndef MICRONET_ENGINE_FORMAT_MASKS_H_
#define MICRONET_ENGINE_FORMAT_MASKS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/format/document.h"

namespace micronet::engine {

// Bits of the mask of a layer that has one.
int64_t mask_bits(const Layer& layer);

// All weights [layer.numel()] of those that are stored [layer.values], in the order of the layer's
// layout; what its mask prunes is `pruned` [O] of its channel. A bit of a mask keeps as many rows
// and columns as a block has. Raises Refused where the mask [mask_bits(layer)] keeps another number
// of weights; a dense layer has none.
std::vector<uint8_t> expand(const Layer& layer, std::span<const uint8_t> mask,
                            std::vector<uint8_t> stored, const std::vector<uint8_t>& pruned);
std::vector<float> expand(const Layer& layer, std::span<const uint8_t> mask,
                          std::vector<float> stored, const std::vector<float>& pruned);

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_FORMAT_MASKS_H_
