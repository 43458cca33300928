// What all kernels of blocks share.
#ifndef MICRONET_CUDA_BLOCK_VALUES_H_
#define MICRONET_CUDA_BLOCK_VALUES_H_

#include <type_traits>

#include "cuda/vector.h"
#include "include/block.h"

namespace micronet {

// Calls body(the function as a constant) for one of Function.
template <typename Body>
int with_function(Function function, const Body& body) {
  switch (function) {
    case kRelu:
      return body(std::integral_constant<int, kRelu>());
    case kSwish:
      return body(std::integral_constant<int, kSwish>());
    case kSigmoid:
      return body(std::integral_constant<int, kSigmoid>());
    default:
      return body(std::integral_constant<int, kIdentity>());
  }
}

// Calls body(the accumulators) with the type that they have.
template <typename Body>
__device__ __forceinline__ void with_accumulators(const Block& block, const Body& body) {
  if (block.type == kInt16) {
    body(static_cast<const int16_t*>(block.acc));
  } else if (block.type == kInt32) {
    body(static_cast<const int32_t*>(block.acc));
  } else {
    body(static_cast<const float*>(block.acc));
  }
}

// The same of a gradient.
template <typename Body>
__device__ __forceinline__ void with_gradient(const BlockGradient& g, const Body& body) {
  if (g.type == kBFloat16) {
    body(static_cast<const __nv_bfloat16*>(g.grad));
  } else if (g.type == kFloat16) {
    body(static_cast<const __half*>(g.grad));
  } else {
    body(static_cast<const float*>(g.grad));
  }
}

// The first element of this thread, and the distance to its next.
__device__ __forceinline__ int64_t first_of_thread() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}
__device__ __forceinline__ int64_t threads_of_grid() {
  return static_cast<int64_t>(gridDim.x) * kThreads;
}

}  // namespace micronet

#endif  // MICRONET_CUDA_BLOCK_VALUES_H_
