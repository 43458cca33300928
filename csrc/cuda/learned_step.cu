// Rounding to learned steps on a CUDA device, and the gradient to the steps in a fixed order of
// summation.

#include "cuda/rounding.h"
#include "cuda/rows.h"

namespace micronet {
namespace {

static_assert(kSumLanes == kThreads, "a thread for each lane");
constexpr int kBlockTiles = static_cast<int>(kSumBlock / kTile);

__device__ __forceinline__ Quantizer quantizer_of(const LearnedStep& s, int64_t channel) {
  return learned_quantizer(s.step[channel], s.zero_point[channel], s.levels);
}

template <bool kLookUp, typename T>
__global__ void fake_quant_learned(const LearnedStep s, const RowBlocks rows, T* __restrict__ y) {
  __shared__ float table[kTableSize];
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const T* x = static_cast<const T*>(s.x);
  int64_t filled = -1;
  Quantizer q{};
  rows.for_each([&](int64_t, int64_t row, int64_t first, int count) {
    if (row != filled) {
      q = quantizer_of(s, row);
      if (kLookUp) {
        __syncthreads();  // the table may still be read
        fill_table(q, table);
      }
      filled = row;
    }
    const Piece<T> piece{x, s.mask, first, count, is_aligned(x + first) && is_aligned(y + first)};
#pragma unroll
    for (int t = 0; t < kBlockTiles; t += kWarps) {
      const int tile = t + static_cast<int>(threadIdx.x / kWarp);
      if (tile * kTile >= count) break;
      float v[kEach];
      piece.load(tile, lane, v);
#pragma unroll
      for (int e = 0; e < kEach; ++e) v[e] = value_of<kLookUp>(v[e], q, table);
      piece.store(v, tile, lane, y);
    }
  });
}

// Lanes [256] pairwise, 128 + 128 to 1 + 1; the sum is thread 0's. Every thread must call.
__device__ inline float sum_lanes(float mine) {
  __shared__ float lanes[kThreads];
  __syncthreads();  // an earlier call may still be read
  lanes[threadIdx.x] = mine;
  __syncthreads();
  if (threadIdx.x >= kWarp) return 0.0f;
  float sums[kWarps];
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sums[w] = lanes[w * kWarp + threadIdx.x];
#pragma unroll
  for (int half = kWarps / 2; half > 0; half /= 2) {
    for (int w = 0; w < half; ++w) sums[w] = sums[w] + sums[w + half];
  }
#pragma unroll
  for (unsigned half = kWarp / 2; half > 0; half /= 2) {
    sums[0] = sums[0] + __shfl_down_sync(kAllLanes, sums[0], half);
  }
  return sums[0];
}

// The terms of a lane of a block of `count` elements from `first` on, added from row 0 on; grad and
// grad_x like s.x. A lane's elements lie 256 apart, so that each access of a warp is one piece
// whatever the alignment, and half of them are on their way before the first is used.
template <typename T>
__device__ __forceinline__ float sum_lane(const LearnedStep& s, const Quantizer& q, int64_t first,
                                          int count, const T* __restrict__ grad,
                                          T* __restrict__ grad_x) {
  constexpr int kAhead = kSumRows / 2;
  const T* x = static_cast<const T*>(s.x);
  T zero;
  from_float(0.0f, &zero);
  float sum = 0.0f;
#pragma unroll 1
  for (int at = static_cast<int>(threadIdx.x); at < count; at += kAhead * kSumLanes) {
    T v[kAhead], g[kAhead];
    uint8_t bits[kAhead];
    const int64_t byte = (first + at) / 8;  // rows lie whole bytes apart
#pragma unroll
    for (int r = 0; r < kAhead; ++r) {
      const int64_t i = first + at + r * kSumLanes;
      if (at + r * kSumLanes >= count) break;
      v[r] = x[i];
      g[r] = grad[i];
      bits[r] = s.mask != nullptr ? s.mask[byte + r * kSumLanes / 8] : 0xff;
    }
#pragma unroll
    for (int r = 0; r < kAhead; ++r) {
      if (at + r * kSumLanes >= count) break;
      const bool keeps = ((bits[r] >> ((first + at) % 8)) & 1) != 0;
      const float one = keeps ? to_float(v[r]) : 0.0f;
      sum = sum + to_float(g[r]) * learned_factor(one, q);
      grad_x[first + at + r * kSumLanes] = keeps && is_inside(one, q) ? g[r] : zero;
    }
  }
  return sum;
}

// sums [channels * blocks] of the blocks of s.x, each times `scale`.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    gradients(const LearnedStep s, const RowBlocks rows, const T* __restrict__ grad,
              T* __restrict__ grad_x, float* __restrict__ sums, float scale) {
  rows.for_each([&](int64_t block, int64_t row, int64_t first, int count) {
    const float sum = sum_lanes(sum_lane(s, quantizer_of(s, row), first, count, grad, grad_x));
    if (threadIdx.x == 0) sums[block] = sum * scale;
  });
}

// grad_step [channels]: `scale` times the sums of the rows of partial [channels, blocks], which it
// overwrites.
__global__ void sum_blocks_again(float* partial, int64_t channels, int64_t blocks, float scale,
                                 float* __restrict__ grad_step) {
  for (int64_t row = blockIdx.x; row < channels; row += gridDim.x) {
    float* sums = partial + row * blocks;
    for (int64_t count = blocks; count > 1; count = (count + kSumBlock - 1) / kSumBlock) {
      for (int64_t from = 0; from < count; from += kSumBlock) {
        float sum = 0.0f;
        for (int r = 0; r < kSumRows; ++r) {
          const int64_t i = from + r * kSumLanes + threadIdx.x;
          if (i < count) sum = sum + sums[i];
        }
        sum = sum_lanes(sum);
        if (threadIdx.x == 0) sums[from / kSumBlock] = sum;
      }
      __syncthreads();
    }
    if (threadIdx.x == 0) grad_step[row] = sums[0] * scale;
  }
}

}  // namespace

int fake_quant_learned_step_cuda(const LearnedStep& s, DType type, void* y, void* stream) {
  if (s.channels * s.per_channel == 0) return kOk;
  const RowBlocks rows(s.channels, s.per_channel);
  return with_type(type, [&](auto* t) {
    using T = std::remove_pointer_t<decltype(t)>;
    const auto kernel =
        s.levels <= kMostLookedUp ? fake_quant_learned<true, T> : fake_quant_learned<false, T>;
    return launch(kernel, rows.grid(), stream, s, rows, static_cast<T*>(y));
  });
}

int fake_quant_learned_step_backward_cuda(const LearnedStep& s, DType type, const void* grad,
                                          float gradient_scale, void* grad_x, float* grad_step,
                                          float* partial, void* stream) {
  if (s.channels == 0) return kOk;
  const RowBlocks rows(s.channels, s.per_channel);
  const bool is_done = rows.blocks == 1;
  const int status = with_type(type, [&](auto* t) {
    using T = std::remove_pointer_t<decltype(t)>;
    return launch(gradients<T>, rows.grid(), stream, s, rows, static_cast<const T*>(grad),
                  static_cast<T*>(grad_x), is_done ? grad_step : partial,
                  is_done ? gradient_scale : 1.0f);
  });
  if (status != kOk || is_done) return status;
  return launch(sum_blocks_again, grid_for(s.channels * kThreads), stream, partial, s.channels,
                rows.blocks, gradient_scale, grad_step);
}

}  // namespace micronet
