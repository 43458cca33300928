// The values of a block on a CUDA device, made from its accumulators wherever they are needed.
#ifndef MICRONET_CUDA_BLOCK_VALUES_H_
#define MICRONET_CUDA_BLOCK_VALUES_H_

#include <type_traits>

#include "cuda/vector.h"
#include "include/block.h"

namespace micronet {

// Sums by lanes of positions: a block takes sixteen lanes of as many channels.
constexpr int kLaneChannels = kThreads / 16;
// Sums in double precision: a block takes 8 rows of 32 channels at a time, kRows in all.
constexpr int kSumChannels = 32, kRowsAtOnce = kThreads / kSumChannels;
constexpr int64_t kRows = 512;

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

__device__ __forceinline__ float accumulator_at(const Block& block, int64_t i) {
  if (block.type == kInt16) return static_cast<float>(static_cast<const int16_t*>(block.acc)[i]);
  if (block.type == kInt32) return static_cast<float>(static_cast<const int32_t*>(block.acc)[i]);
  return static_cast<const float*>(block.acc)[i];
}

__device__ __forceinline__ float preactivation_at(const Block& block, int64_t i, int64_t channel) {
  return fmaf(accumulator_at(block, i), block.scale[channel], block.shift[channel]);
}

__device__ __forceinline__ float gradient_value(const BlockGradient& g, int64_t i) {
  if (g.type == kBFloat16) return to_float(static_cast<const __nv_bfloat16*>(g.grad)[i]);
  if (g.type == kFloat16) return to_float(static_cast<const __half*>(g.grad)[i]);
  return static_cast<const float*>(g.grad)[i];
}

// The first element of this thread, and the distance to its next.
__device__ __forceinline__ int64_t first_of_thread() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}
__device__ __forceinline__ int64_t threads_of_grid() {
  return static_cast<int64_t>(gridDim.x) * kThreads;
}

// The sum over the sixteen lanes of each channel, in lane 0: 8 + 8, 4 + 4, 2 + 2, 1 + 1. Every
// thread of the block must call; thread t has lane t / kLaneChannels.
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

// Adds the sums of a block's kRowsAtOnce threads of a channel and writes them to partial [part, 2,
// C].
__device__ inline void store_sums(double first, double second, int64_t part, int64_t channel,
                                  int64_t channels, double* partial) {
  __shared__ double sums[2][kThreads];
  __syncthreads();  // an earlier call may still be read
  sums[0][threadIdx.x] = first;
  sums[1][threadIdx.x] = second;
  __syncthreads();
  if (threadIdx.x >= kSumChannels || channel >= channels) return;
  for (int s = 0; s < 2; ++s) {
    double sum = 0.0;
    for (int row = 0; row < kRowsAtOnce; ++row) sum += sums[s][row * kSumChannels + threadIdx.x];
    partial[(part * 2 + s) * channels + channel] = sum;
  }
}

// Calls body(row, channel) for the rows of each part of this block, and then done(part, channel),
// all threads together; channels may lie beyond the last.
template <typename Body, typename Done>
__device__ __forceinline__ void for_parts(const Block& block, const Body& body, const Done& done) {
  const int64_t rows = block.images * block.positions;
  const int64_t columns = (block.channels + kSumChannels - 1) / kSumChannels;
  const int64_t parts = (rows + kRows - 1) / kRows;
  for (int64_t unit = blockIdx.x; unit < parts * columns; unit += gridDim.x) {
    const int64_t part = unit / columns;
    const int64_t channel = unit % columns * kSumChannels + threadIdx.x % kSumChannels;
    const int64_t last = (part + 1) * kRows < rows ? (part + 1) * kRows : rows;
    for (int64_t row = part * kRows + threadIdx.x / kSumChannels; row < last; row += kRowsAtOnce) {
      if (channel < block.channels) body(row, channel);
    }
    done(part, channel);
  }
}

static inline unsigned grid_for_parts(const Block& block) {
  const int64_t columns = (block.channels + kSumChannels - 1) / kSumChannels;
  return grid_for(block_parts_cuda(block) * columns * kThreads);
}

// sums [2, C] of partial [parts, 2, C], part by part.
int add_parts(const Block& block, const double* partial, double* sums, void* stream);

}  // namespace micronet

#endif  // MICRONET_CUDA_BLOCK_VALUES_H_
