// The extremes of a tensor, gathered by all blocks of a cooperative grid.
#ifndef MICRONET_CUDA_EXTREMES_H_
#define MICRONET_CUDA_EXTREMES_H_

#include <cmath>

#include "cuda/vector.h"

namespace micronet {

// What the workspace has room for, two floats a block.
constexpr unsigned kMostBlocks = static_cast<unsigned>(kWorkspace / 2);

static inline unsigned observing_grid(int64_t numel) {
  const unsigned wanted = grid_for_tiles(numel);
  return wanted < kMostBlocks ? wanted : kMostBlocks;
}

// fminf and fmaxf drop NaN, so it is kept apart: no order of merging shows in the result.
struct Extremes {
  float least = INFINITY, most = -INFINITY;
  bool has_nan = false;

  __device__ __forceinline__ void merge(float lo, float hi) {
    least = fminf(least, lo);
    most = fmaxf(most, hi);
    has_nan = has_nan | (lo != lo);
  }

  __device__ __forceinline__ void add(float v) { merge(v, v); }

  __device__ __forceinline__ void add(const float (&v)[kEach]) {
#pragma unroll
    for (int e = 0; e < kEach; ++e) add(v[e]);
  }

  // Never minus zero.
  __device__ __forceinline__ float lo() const { return has_nan ? NAN : least + 0.0f; }
  __device__ __forceinline__ float hi() const { return has_nan ? NAN : most + 0.0f; }
};

// The extremes over the block, in each of its threads. Every thread must call, and wait for the
// others before it calls again.
__device__ inline Extremes over_block(Extremes e) {
  __shared__ float los[kWarps], his[kWarps];
  const unsigned warp = threadIdx.x / kWarp;
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    e.least = fminf(e.least, __shfl_xor_sync(kAllLanes, e.least, lanes));
    e.most = fmaxf(e.most, __shfl_xor_sync(kAllLanes, e.most, lanes));
  }
  e.has_nan = __any_sync(kAllLanes, e.has_nan) != 0;
  if (threadIdx.x % kWarp == 0) {
    los[warp] = e.lo();
    his[warp] = e.hi();
  }
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) e.merge(los[w], his[w]);
  return e;
}

// partial [gridDim.x, 2], device memory: waits until the extremes of every block's share are there.
__device__ inline void publish(const Extremes& seen, float* partial) {
  const Extremes all = over_block(seen);
  if (threadIdx.x == 0) {
    partial[2 * blockIdx.x] = all.lo();
    partial[2 * blockIdx.x + 1] = all.hi();
  }
  cooperative_groups::this_grid().sync();
}

// What was published. Every thread of the block must call.
__device__ inline Extremes gather(const float* partial) {
  Extremes e;
  for (unsigned b = threadIdx.x; b < gridDim.x; b += kThreads) {
    e.merge(partial[2 * b], partial[2 * b + 1]);
  }
  return over_block(e);
}

// The extremes [2] of all shares, written by the first block once every block has published its
// own.
__device__ inline void publish_extremes(const Extremes& seen, float* partial, float* extremes) {
  publish(seen, partial);
  if (blockIdx.x != 0) return;
  const Extremes all = gather(partial);
  if (threadIdx.x == 0) {
    extremes[0] = all.lo();
    extremes[1] = all.hi();
  }
}

// Reads this block's share of x, the same at every call. Four loads of a thread are under way at
// once, since nothing else hides their latency.
template <typename T>
__device__ __forceinline__ Extremes observe(const T* __restrict__ x, int64_t numel) {
  constexpr int kAtOnce = 4, kSize = Packet<T>::kSize;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t me = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const Packet<T>* packets = reinterpret_cast<const Packet<T>*>(x);
  const int64_t whole = is_aligned(x) ? numel / kSize : 0;
  Extremes seen;
  for (int64_t i = me; i < whole; i += kAtOnce * threads) {
    Packet<T> found[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      // Beyond the end the first is read again, which changes no extreme.
      found[k] = packets[i + k * threads < whole ? i + k * threads : i];
    }
#pragma unroll
    for (int k = 0; k < kAtOnce * kSize; ++k)
      seen.add(to_float(found[k / kSize].values[k % kSize]));
  }
  for (int64_t i = whole * kSize + me; i < numel; i += threads) seen.add(to_float(x[i]));
  return seen;
}

}  // namespace micronet

#endif  // MICRONET_CUDA_EXTREMES_H_
