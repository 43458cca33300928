// The inner loops of a convolution that skips pruned weights, sixty-four pixels at a time.
#ifndef MICRONET_CPU_ISA_LOOPS_SPARSE_H_
#define MICRONET_CPU_ISA_LOOPS_SPARSE_H_

#include "cpu/isa/loops_conv.h"

namespace micronet {
namespace {

constexpr int kSixteens = kSparsePixels / kWidth;
constexpr int kRows = 64;  // output channels whose sums stay in the nearest cache

// Codes [pixels, depth], rows `stride` bytes apart, to [depth / 4, kSparsePixels, 4]. Pixels that
// are missing are left as they were.
inline void interleave_pixels(const uint8_t* x, int64_t stride, int64_t pixels, int64_t depth,
                              uint8_t* out) {
  constexpr int64_t kTall = 4 * kWidth, kGroup = 4 * kSparsePixels;
  int64_t k = 0, p = 0;
  for (; k + kTall <= depth; k += kTall) {
    for (p = 0; p + kWidth <= pixels; p += kWidth) {
      transpose(x + p * stride + k, stride, out + k * kSparsePixels + 4 * p, kGroup);
    }
    for (; p < pixels; ++p) {
      for (int64_t d = k; d < k + kTall; d += 4) {
        std::memcpy(out + d * kSparsePixels + 4 * p, x + p * stride + d, 4);
      }
    }
  }
  for (; k < depth; k += 4) {
    for (p = 0; p < pixels; ++p) {
      std::memcpy(out + k * kSparsePixels + 4 * p, x + p * stride + k, 4);
    }
  }
}

// Adds the products of some groups of four weights to the sums [kSparsePixels] of one channel.
template <bool kWide>
MICRONET_INLINE void add_groups(const uint8_t* x, const FourWeights* from, const FourWeights* to,
                                int32_t* sums) {
  Dots chains[Dots::kChains][kSixteens];
  for (auto& chain : chains) {
    for (Dots& sum : chain) sum = Dots::zero();
  }
  const auto add = [&](const FourWeights& four, Dots* chain) {
    const auto w = Dots::signed_four(four.weights);
    for (int j = 0; j < kSixteens; ++j)
      chain[j].template add_pixels<kWide>(x + four.place + 64 * j, w);
  };
  for (; to - from >= Dots::kChains; from += Dots::kChains) {
    for (int i = 0; i < Dots::kChains; ++i) add(from[i], chains[i]);
  }
  for (; from != to; ++from) add(*from, chains[0]);
  for (int j = 0; j < kSixteens; ++j) {
    Dots sum = Dots::load(sums + kWidth * j);
    for (const auto& chain : chains) sum = sum + chain[j];
    sum.store(sums + kWidth * j, kWidth, false);
  }
}

// Sums [kRows, kSparsePixels] of output channels from `channel` on, written pixel by pixel.
inline void put_sums(const int32_t* sums, const SparseTile& tile, int64_t channel, int64_t rows) {
  alignas(64) int32_t across[kSparsePixels * kRows];
  for (int64_t r = 0; r < rows; r += kWidth) {
    for (int p = 0; p < kSparsePixels; p += kWidth) {
      transpose(reinterpret_cast<const uint8_t*>(sums + r * kSparsePixels + p), 4 * kSparsePixels,
                reinterpret_cast<uint8_t*>(across + p * kRows + r), 4 * kRows);
    }
  }
  for (int64_t p = 0; p < tile.out.pixels; ++p) {
    for (int64_t r = 0; r < rows; r += kWidth) {
      store_sums(Dots::load(across + p * kRows + r), tile.out, p, channel + r);
    }
  }
}

template <bool kWide>
void sparse_tile_of(const SparseTile& tile) {
  for (int64_t channel = 0; channel < tile.out.out_channels; channel += kRows) {
    const int64_t left = tile.out.out_channels - channel, rows = left < kRows ? left : kRows;
    alignas(64) int32_t sums[kRows * kSparsePixels] = {};
    // Part by part of the depth, so that the codes of a part stay in the nearest cache.
    for (int64_t part = 0; part < tile.parts; ++part) {
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t* starts = tile.starts + (channel + r) * tile.parts + part;
        add_groups<kWide>(tile.out.x, tile.groups + starts[0], tile.groups + starts[1],
                          sums + r * kSparsePixels);
      }
    }
    put_sums(sums, tile, channel, rows);
  }
  Vector::fence();
}

inline void sparse_tile(const SparseTile& tile) {
  tile.out.wide ? sparse_tile_of<true>(tile) : sparse_tile_of<false>(tile);
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_LOOPS_SPARSE_H_
