// Sums over all rows of a block, a thread for a few channels of some of them.
#ifndef MICRONET_CUDA_BLOCK_COLUMNS_H_
#define MICRONET_CUDA_BLOCK_COLUMNS_H_

#include "cuda/block_runs.h"

namespace micronet {

// How the rows [images * positions] are shared out: a grid's blocks take a part of the rows and up
// to kThreads channels each, its threads every lanes-th row of the part and kChannels next to each
// other.
template <int kChannels>
struct Columns {
  static constexpr int64_t kMostGroups = kThreads / kChannels;

  int64_t rows, channels, rows_each, across;
  int groups, lanes;

  explicit Columns(const Block& block)
      : rows(block.images * block.positions), channels(block.channels) {
    const int64_t all = (channels + kChannels - 1) / kChannels, parts = block_parts_cuda(block);
    rows_each = (rows + parts - 1) / parts;
    across = (all + kMostGroups - 1) / kMostGroups;
    groups = static_cast<int>((all + across - 1) / across);
    lanes = kThreads / groups;
  }

  unsigned grid(const Block& block) const {
    return static_cast<unsigned>(block_parts_cuda(block) * across);
  }
};

// What a thread takes: from row `first` to below `last` its channels from `channel` on.
template <int kChannels>
struct Strip {
  const Columns<kChannels>& columns;
  int64_t part, first, last, channel;

  __device__ __forceinline__ explicit Strip(const Columns<kChannels>& c) : columns(c) {
    part = blockIdx.x / c.across;
    const int lane = static_cast<int>(threadIdx.x) / c.groups;
    const int group = static_cast<int>(threadIdx.x) % c.groups;
    channel = (blockIdx.x % c.across * c.groups + group) * kChannels;
    first = part * c.rows_each + lane;
    last = (part + 1) * c.rows_each < c.rows ? (part + 1) * c.rows_each : c.rows;
    if (lane >= c.lanes || channel >= c.channels) last = first;
  }

  // The numbers [channels] of its own.
  template <bool kWhole>
  __device__ __forceinline__ void load_channels(const float* of, float (&v)[kChannels]) const {
    if constexpr (kWhole) {
      load_packets(of + (channel < columns.channels ? channel : 0), v);
    } else {
#pragma unroll
      for (int e = 0; e < kChannels; ++e) {
        v[e] = channel + e < columns.channels ? of[channel + e] : 0.0f;
      }
    }
  }

  // Calls body(run) for each row.
  template <typename Body>
  __device__ __forceinline__ void for_rows(const Body& body) const {
    const int64_t left = columns.channels - channel;
    const int count = left < kChannels ? static_cast<int>(left) : kChannels;
    for (int64_t row = first; row < last; row += columns.lanes) {
      body(Run{row * columns.channels + channel, count, row, channel});
    }
  }

  // Adds the sums of the block's threads of each channel, lane by lane, and writes them to `which`
  // of partial [part, 2, C]. Every thread of the block must call.
  __device__ __forceinline__ void store(const double (&mine)[kChannels], int which,
                                        double* partial) const {
    __shared__ double sums[kChannels][kThreads];
    __syncthreads();  // an earlier call may still be read
#pragma unroll
    for (int e = 0; e < kChannels; ++e) sums[e][threadIdx.x] = mine[e];
    __syncthreads();
    const Columns<kChannels>& c = columns;
    const int group = static_cast<int>(threadIdx.x) / kChannels, e = threadIdx.x % kChannels;
    const int64_t at = (blockIdx.x % c.across * c.groups + group) * kChannels + e;
    if (group >= c.groups || at >= c.channels) return;
    double sum = 0.0;
    for (int lane = 0; lane < c.lanes; ++lane) sum += sums[e][lane * c.groups + group];
    partial[(part * 2 + which) * c.channels + at] = sum;
  }
};

// sums [2, C] of partial [parts, 2, C].
int add_parts(const Block& block, const double* partial, double* sums, void* stream);

}  // namespace micronet

#endif  // MICRONET_CUDA_BLOCK_COLUMNS_H_
