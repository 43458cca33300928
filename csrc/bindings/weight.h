// Operators on weights that other bindings call as well.
#ifndef MICRONET_BINDINGS_WEIGHT_H_
#define MICRONET_BINDINGS_WEIGHT_H_

#include <vector>

#include "bindings/tensors.h"

namespace micronet {

TensorTriple quantize_per_channel(const Tensor& w, const Tensor& mask, int64_t levels,
                                  int64_t scheme);

std::vector<Tensor> fake_quant_weights(const std::vector<Tensor>& weights,
                                       const std::vector<Tensor>& masks,
                                       const std::vector<int64_t>& levels, int64_t scheme);

std::vector<Tensor> mask_gradients(const std::vector<Tensor>& grads,
                                   const std::vector<Tensor>& masks);

}  // namespace micronet

#endif  // MICRONET_BINDINGS_WEIGHT_H_
