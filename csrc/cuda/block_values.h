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

// The first element of this thread, and the distance to its next.
__device__ __forceinline__ int64_t first_of_thread() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}
__device__ __forceinline__ int64_t threads_of_grid() {
  return static_cast<int64_t>(gridDim.x) * kThreads;
}

}  // namespace micronet

#endif  // MICRONET_CUDA_BLOCK_VALUES_H_
