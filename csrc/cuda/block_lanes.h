// Sums over the positions of an image by sixteen lanes, each in the order of its positions.
#ifndef MICRONET_CUDA_BLOCK_LANES_H_
#define MICRONET_CUDA_BLOCK_LANES_H_

#include "cuda/block_runs.h"

namespace micronet {

// A block takes sixteen lanes of as many channels.
constexpr int kPositionLanes = 16, kLaneChannels = kThreads / kPositionLanes;

// Elements of one channel and lane of an image: `count`, at most eight, `step` apart. Eight loads
// are under way at once, though the sum of a lane waits for each of its terms.
struct Stretch {
  int64_t first, step;
  int count;

  __device__ __forceinline__ int64_t at(int e) const { return first + e * step; }
};

// Those beyond the last are the first again.
template <typename T>
__device__ __forceinline__ void load_stretch(const T* elements, const Stretch& s,
                                             float (&v)[kEach]) {
#pragma unroll
  for (int e = 0; e < kEach; ++e) v[e] = to_float(elements[s.at(e < s.count ? e : 0)]);
}

__device__ __forceinline__ void load_gradient(const BlockGradient& g, const Stretch& s,
                                              float (&v)[kEach]) {
  with_gradient(g, [&](const auto* grad) { load_stretch(grad, s, v); });
}

// What a thread sums: the positions of one lane, of a channel of an image.
struct Lane {
  int64_t image, channel;
  int number;
  bool here;  // whether there is such a channel

  __device__ __forceinline__ Lane(const Block& block, int64_t unit, int64_t columns)
      : image(unit / columns),
        channel(unit % columns * kLaneChannels + threadIdx.x % kLaneChannels),
        number(static_cast<int>(threadIdx.x) / kLaneChannels),
        here(channel < block.channels) {}

  // Of [images, channels].
  __device__ __forceinline__ int64_t index(const Block& block) const {
    return image * block.channels + channel;
  }

  // Calls body(stretch) for each, in order.
  template <typename Body>
  __device__ __forceinline__ void for_stretches(const Block& block, const Body& body) const {
    if (!here) return;
    for (int64_t p = number; p < block.positions; p += kPositionLanes * kEach) {
      const int64_t left = (block.positions - p + kPositionLanes - 1) / kPositionLanes;
      body(Stretch{(image * block.positions + p) * block.channels + channel,
                   kPositionLanes * block.channels, left < kEach ? static_cast<int>(left) : kEach});
    }
  }
};

// Calls body(lane) for each unit of this block: an image, and sixteen channels.
template <typename Body>
__device__ __forceinline__ void for_lanes(const Block& block, const Body& body) {
  const int64_t columns = (block.channels + kLaneChannels - 1) / kLaneChannels;
  for (int64_t unit = blockIdx.x; unit < block.images * columns; unit += gridDim.x) {
    body(Lane(block, unit, columns));
  }
}

static inline unsigned grid_for_lanes(const Block& block) {
  const int64_t columns = (block.channels + kLaneChannels - 1) / kLaneChannels;
  return grid_for(block.images * columns * kThreads);
}

// The sum over the sixteen lanes of each channel, in lane 0: 8 + 8, 4 + 4, 2 + 2, 1 + 1. Every
// thread of the block must call.
__device__ inline float over_lanes(float mine) {
  __shared__ float lanes[kThreads];
  __syncthreads();  // an earlier call may still be read
  lanes[threadIdx.x] = mine;
  for (unsigned half = kThreads / 2; half >= static_cast<unsigned>(kLaneChannels); half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) lanes[threadIdx.x] += lanes[threadIdx.x + half];
  }
  return lanes[threadIdx.x];
}

// The values before the activation function.
__device__ __forceinline__ void load_preactivations(const Block& block, const Stretch& s,
                                                    int64_t channel, float (&z)[kEach]) {
  with_accumulators(block, [&](const auto* acc) { load_stretch(acc, s, z); });
  const float scale = block.scale[channel], shift = block.shift[channel];
#pragma unroll
  for (int e = 0; e < kEach; ++e) z[e] = fmaf(z[e], scale, shift);
}

}  // namespace micronet

#endif  // MICRONET_CUDA_BLOCK_LANES_H_
