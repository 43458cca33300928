// Batch normalization of a convolution's sums on a CUDA device: a thread takes a channel.

#include "cuda/launch.h"
#include "include/norm.h"

namespace micronet {
namespace {

// All pointers are to device memory.
__global__ void norm_fold(Norm norm, const double* __restrict__ sums, int64_t count,
                          RunningStatistics running, NormFold out) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x; c < norm.channels; c += step) {
    fold_channel(norm, sums, count, running, out, c);
  }
}

__global__ void norm_gradient_map(Norm norm, NormGradient gradient, NormGradientMap out) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x; c < norm.channels; c += step) {
    map_channel(norm, gradient, out, c);
  }
}

}  // namespace

int norm_fold_cuda(const Norm& norm, const double* sums, int64_t count,
                   const RunningStatistics& running, const NormFold& out, void* stream) {
  return launch(norm_fold, grid_for(norm.channels), stream, norm, sums, count, running, out);
}

int norm_gradient_map_cuda(const Norm& norm, const NormGradient& gradient,
                           const NormGradientMap& out, void* stream) {
  return launch(norm_gradient_map, grid_for(norm.channels), stream, norm, gradient, out);
}

}  // namespace micronet
