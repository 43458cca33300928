// Rows of a matrix [channels, per_channel], and the packed bits that keep or drop their elements.
#ifndef MICRONET_CUDA_ROWS_H_
#define MICRONET_CUDA_ROWS_H_

#include "cuda/vector.h"

namespace micronet {

// Bit e: whether the mask keeps element e of a lane's eight of a tile of `count`, which starts at
// bit `first`; 0 beyond the end. A row may start within a byte. Null keeps all.
template <typename T>
__device__ __forceinline__ unsigned kept_of(const uint8_t* mask, int64_t first, int count,
                                            int lane) {
  constexpr int kSize = Packet<T>::kSize;
  unsigned flags = 0;
#pragma unroll
  for (int p = 0; p < kEach; p += kSize) {
    const int at = place<T>(lane, p);
    const int mine = count - at < kSize ? count - at : kSize;
    if (mine <= 0) break;
    unsigned bits = (1u << mine) - 1;
    if (mask != nullptr) {
      const int64_t bit = first + at;
      const int shift = static_cast<int>(bit % 8);
      unsigned word = mask[bit / 8];
      if (shift + mine > 8) word |= static_cast<unsigned>(mask[bit / 8 + 1]) << 8;
      bits &= word >> shift;
    }
    flags |= bits << p;
  }
  return flags;
}

// Consecutive elements of one row, in tiles. `first` counts from the start of the matrix, and
// `aligned` says that packets of whole tiles can be moved.
template <typename T>
struct Piece {
  const T* x;
  const uint8_t* mask;
  int64_t first, numel;
  bool aligned;

  __device__ __forceinline__ int64_t tiles() const { return (numel + kTile - 1) / kTile; }

  __device__ __forceinline__ int count(int64_t tile) const {
    const int64_t left = numel - tile * kTile;
    return left < kTile ? static_cast<int>(left) : kTile;
  }

  __device__ __forceinline__ bool is_whole(int64_t tile) const {
    return aligned && (tile + 1) * kTile <= numel;
  }

  // A lane's eight elements of a tile, 0 where dropped and beyond the end.
  __device__ __forceinline__ void load(int64_t tile, int lane, float (&v)[kEach]) const {
    const T* from = x + first + tile * kTile;
    if (is_whole(tile)) {
      micronet::load<true>(from, kTile, lane, v);
      if (mask == nullptr) return;
    } else {
      micronet::load<false>(from, count(tile), lane, v);
    }
    const unsigned kept = kept_of<T>(mask, first + tile * kTile, count(tile), lane);
#pragma unroll
    for (int e = 0; e < kEach; ++e) v[e] = (kept >> e) & 1 ? v[e] : 0.0f;
  }

  __device__ __forceinline__ void store(const float (&v)[kEach], int64_t tile, int lane,
                                        T* y) const {
    T* to = y + first + tile * kTile;
    if (is_whole(tile)) {
      micronet::store<true>(v, to, kTile, lane);
    } else {
      micronet::store<false>(v, to, count(tile), lane);
    }
  }
};

// Rows cut into blocks of kSumBlock elements, at least one a row: `blocks` is sum_blocks of a row.
struct RowBlocks {
  int64_t channels, per_channel, blocks;

  RowBlocks(int64_t c, int64_t n) : channels(c), per_channel(n), blocks(sum_blocks(n)) {}

  unsigned grid() const { return grid_for(channels * blocks * kThreads); }

  // Calls body(number of the block, its row, its first element in the matrix, its elements) for
  // each block of this thread block, all threads together.
  template <typename Body>
  __device__ __forceinline__ void for_each(const Body& body) const {
    for (int64_t block = blockIdx.x; block < channels * blocks; block += gridDim.x) {
      const int64_t row = block / blocks, from = (block - row * blocks) * kSumBlock;
      const int64_t left = per_channel - from;
      body(block, row, row * per_channel + from,
           static_cast<int>(left < kSumBlock ? left : kSumBlock));
    }
  }
};

}  // namespace micronet

#endif  // MICRONET_CUDA_ROWS_H_
