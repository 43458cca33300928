// Running sums over counts in device memory.
#ifndef MICRONET_CUDA_SCAN_H_
#define MICRONET_CUDA_SCAN_H_

#include "cuda/block_sums.h"

namespace micronet {

// For one block: counts [numel + 1] become the sums of those before each, the last the sum of all.
static __global__ void add_up(int64_t* counts, int64_t numel) {
  constexpr int kRun = 8;
  int64_t before = 0;
  for (int64_t from = 0; from < numel; from += kThreads * kRun) {
    const int64_t first = from + static_cast<int64_t>(threadIdx.x) * kRun;
    int64_t mine[kRun], sum = 0;
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      mine[i] = first + i < numel ? counts[first + i] : 0;
      sum += mine[i];
    }
    const Sums sums = over_block(sum);
    int64_t next = before + sums.before;
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (first + i < numel) counts[first + i] = next;
      next += mine[i];
    }
    before += sums.all;
  }
  if (threadIdx.x == 0) counts[numel] = before;
}

}  // namespace micronet

#endif  // MICRONET_CUDA_SCAN_H_
