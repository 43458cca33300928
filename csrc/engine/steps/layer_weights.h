// A layer's weights as its step wants them.
#ifndef MICRONET_ENGINE_STEPS_LAYER_WEIGHTS_H_
#define MICRONET_ENGINE_STEPS_LAYER_WEIGHTS_H_

#include <cstdint>
#include <vector>

#include "engine/format/weights.h"

namespace micronet::engine {

// The largest |sum| that codes of an input can give each channel, [O].
std::vector<int64_t> bounds_of(const Layer& layer, const LayerTensors& tensors,
                               const StoredQuantizer& input);

// The weights of float sums, [layer.numel()].
std::vector<float> floats_of(const Layer& layer, const LayerTensors& tensors);

// The weights of a linear layer: whole numbers of a byte, which take a quarter of the memory, where
// all are that, floats where one is none. The other is empty.
struct LinearWeights {
  std::vector<int8_t> bytes;
  std::vector<float> floats;

  LinearWeights(const Layer& layer, const LayerTensors& tensors);
};

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_STEPS_LAYER_WEIGHTS_H_
