// Sums over the threads of a block.
#ifndef MICRONET_CUDA_BLOCK_SUMS_H_
#define MICRONET_CUDA_BLOCK_SUMS_H_

#include "cuda/vector.h"

namespace micronet {

// The sum over the threads of lower number, and over all.
struct Sums {
  int64_t before, all;
};

// Every thread of the block must call.
__device__ inline Sums over_block(int64_t mine) {
  __shared__ int64_t warps[kWarps];
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int64_t sum = mine;
#pragma unroll
  for (unsigned lanes = 1; lanes < kWarp; lanes *= 2) {
    const int64_t lower = __shfl_up_sync(kAllLanes, sum, lanes);
    if (lane >= lanes) sum += lower;
  }
  __syncthreads();  // an earlier call may still be read
  if (lane == kWarp - 1) warps[warp] = sum;
  __syncthreads();
  Sums sums{sum - mine, 0};
#pragma unroll
  for (unsigned w = 0; w < kWarps; ++w) {
    if (w < warp) sums.before += warps[w];
    sums.all += warps[w];
  }
  return sums;
}

}  // namespace micronet

#endif  // MICRONET_CUDA_BLOCK_SUMS_H_
