// Choosing values by packed bits on a CUDA device.

#include "../core.h"
#include "launch.h"

namespace micronet {
namespace {

__global__ void select(const float* __restrict__ values, const uint8_t* __restrict__ bits,
                       int64_t numel, float* __restrict__ out) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < numel;
       i += stride) {
    out[i] = ((bits[i / 8] >> (i % 8)) & 1) != 0 ? values[i] : 0.0f;
  }
}

}  // namespace

int select_by_bits_cuda(const float* values, const uint8_t* bits, int64_t numel, float* out,
                        void* stream) {
  if (numel == 0) return kOk;
  select<<<grid_for(numel), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(values, bits, numel,
                                                                              out);
  return launch_status();
}

}  // namespace micronet
