// Sums over all rows of a block, a thread for eight channels of some of them.
#ifndef MICRONET_CUDA_BLOCK_COLUMNS_H_
#define MICRONET_CUDA_BLOCK_COLUMNS_H_

#include "cuda/block_runs.h"

namespace micronet {

// How the rows [images * positions] of channels are shared out: a grid's blocks take a part of the
// rows and up to kMostOctets octets of channels each, its threads every lanes-th row of the part
// and one octet.
struct Columns {
  static constexpr int64_t kMostOctets = 32;

  int64_t rows, channels, rows_each, across;
  int octets, lanes;

  explicit Columns(const Block& block)
      : rows(block.images * block.positions), channels(block.channels) {
    const int64_t all = (channels + kEach - 1) / kEach, parts = block_parts_cuda(block);
    rows_each = (rows + parts - 1) / parts;
    across = (all + kMostOctets - 1) / kMostOctets;
    octets = static_cast<int>((all + across - 1) / across);
    lanes = kThreads / octets;
  }

  unsigned grid(const Block& block) const {
    return static_cast<unsigned>(block_parts_cuda(block) * across);
  }
};

// What a thread takes: from row `first` to below `last` its octet of channels from `channel` on.
struct Strip {
  int64_t part, first, last, channel;
  int lane;

  __device__ __forceinline__ explicit Strip(const Columns& c) {
    part = blockIdx.x / c.across;
    lane = static_cast<int>(threadIdx.x) / c.octets;
    const int octet = static_cast<int>(threadIdx.x) % c.octets;
    channel = (blockIdx.x % c.across * c.octets + octet) * kEach;
    first = part * c.rows_each + lane;
    last = (part + 1) * c.rows_each < c.rows ? (part + 1) * c.rows_each : c.rows;
    if (lane >= c.lanes || channel >= c.channels) last = first;
  }

  // The numbers [channels] of the octet.
  template <bool kWhole>
  __device__ __forceinline__ void load_channels(const Columns& c, const float* of,
                                                float (&v)[kEach]) const {
    if constexpr (kWhole) {
      load_eight(of + (channel < c.channels ? channel : 0), v);
    } else {
#pragma unroll
      for (int e = 0; e < kEach; ++e) v[e] = channel + e < c.channels ? of[channel + e] : 0.0f;
    }
  }

  // Calls body(run) for each row.
  template <typename Body>
  __device__ __forceinline__ void for_rows(const Columns& c, const Body& body) const {
    const int64_t left = c.channels - channel;
    const int count = left < kEach ? static_cast<int>(left) : kEach;
    for (int64_t row = first; row < last; row += c.lanes) {
      body(Run{row * c.channels + channel, count, row, channel});
    }
  }
};

// Adds the sums of a block's threads of each channel, lane by lane, and writes them to `which` of
// partial [part, 2, C]. Every thread of the block must call.
__device__ inline void store_sums(const double (&mine)[kEach], const Columns& c, const Strip& strip,
                                  int which, double* partial) {
  __shared__ double sums[kEach][kThreads];
  __syncthreads();  // an earlier call may still be read
#pragma unroll
  for (int e = 0; e < kEach; ++e) sums[e][threadIdx.x] = mine[e];
  __syncthreads();
  const int octet = static_cast<int>(threadIdx.x) / kEach, e = threadIdx.x % kEach;
  const int64_t channel = (blockIdx.x % c.across * c.octets + octet) * kEach + e;
  if (octet >= c.octets || channel >= c.channels) return;
  double sum = 0.0;
  for (int lane = 0; lane < c.lanes; ++lane) sum += sums[e][lane * c.octets + octet];
  partial[(strip.part * 2 + which) * c.channels + channel] = sum;
}

// sums [2, C] of partial [parts, 2, C].
int add_parts(const Block& block, const double* partial, double* sums, void* stream);

}  // namespace micronet

#endif  // MICRONET_CUDA_BLOCK_COLUMNS_H_
