// A tile of sums of a convolution of codes: where its codes come from and where its sums go.
#ifndef MICRONET_CUDA_CONV_TILE_H_
#define MICRONET_CUDA_CONV_TILE_H_

#include "cuda/conv_weights.h"
#include "cuda/divide.h"
#include "cuda/tensor_core.h"
#include "cuda/vector.h"

namespace micronet {

constexpr int kTilePixels = 128;
constexpr unsigned kHalfBytes = 0x0f0f0f0fu;  // the low ones, of even codes

// A word of eight codes from code `first` on, of which `count` are there.
__device__ __forceinline__ unsigned gather_codes(const uint8_t* codes, int64_t first, int count) {
  unsigned word = 0;
  for (int d = 0; d < kWordCodes && d < count; ++d) {
    const int64_t i = first + d;
    word |= static_cast<unsigned>(codes[i / 2] >> (i % 2 * 4) & 15) << (4 * d);
  }
  return word;
}

// A word of four codes that have a byte each there, from codes that have half a byte or a whole
// one.
__device__ __forceinline__ unsigned gather_bytes(const uint8_t* codes, int64_t first, int count,
                                                 bool are_halves) {
  unsigned word = 0;
  for (int d = 0; d < 4 && d < count; ++d) {
    const int64_t i = first + d;
    const unsigned code = are_halves ? codes[i / 2] >> (i % 2 * 4) & 15u : codes[i];
    word |= code << (8 * d);
  }
  return word;
}

// Whether 0 <= v < end.
__device__ __forceinline__ bool is_below(int v, int end) {
  return static_cast<unsigned>(v) < static_cast<unsigned>(end);
}

// Sums of kOutputs channels of a tile's pixels in shared memory. A row is as much longer as lets
// the lanes of a warp, which have parts of eight rows, write to different banks.
template <int kOutputs>
struct SumTile {
  static constexpr int kRow = kOutputs + 8;
  static constexpr int kPackets = kTilePixels * kRow * 4 / 16;

  // Puts four sums of a lane, as multiply_add leaves them: two of `pixel` and two eight pixels on,
  // from `column` on.
  static __device__ __forceinline__ void put(const int (&sums)[4], int pixel, int column,
                                             uint4* tile) {
    uint2* to = reinterpret_cast<uint2*>(tile) + (pixel * kRow + column) / 2;
    to[0] = make_uint2(static_cast<unsigned>(sums[0]), static_cast<unsigned>(sums[1]));
    to[4 * kRow] = make_uint2(static_cast<unsigned>(sums[2]), static_cast<unsigned>(sums[3]));
  }
};

// Elements of kSize neighboring channels from sums of codes. A thread has the same channels of all
// its pixels; beyond `count` there are none.
template <bool kSummed, Accumulator kKind, int kSize>
struct Elements {
  unsigned correction[kSize];
  unsigned offset[kSummed ? kSize : 1];
  float ratio[kKind == kValue ? kSize : 1];

  __device__ __forceinline__ Elements(const QuantConv& c, const PackedWeights& w, int64_t channel,
                                      int count) {
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      correction[e] = e < count ? static_cast<unsigned>(w.correction[channel + e]) : 0;
      if constexpr (kSummed) {
        offset[e] = e < count ? static_cast<unsigned>(w.offset[channel + e]) : 0;
      }
      if constexpr (kKind == kValue) ratio[e] = e < count ? c.ratio[channel + e] : 0.0f;
    }
  }

  // As a word; of int16 the low half. `codes`: the sum of the pixel's codes.
  __device__ __forceinline__ unsigned of(unsigned sum, unsigned codes, int e) const {
    unsigned whole = sum + correction[e];
    if constexpr (kSummed) whole += offset[e] * codes;
    if constexpr (kKind != kValue) return whole;
    return __float_as_uint(static_cast<float>(static_cast<int>(whole)) * ratio[e]);
  }
};

// Writes the tile's first `count` channels, of which conv.out's first is `channel`, 16 bytes at a
// time. Where kSummed, the last of all sums the codes, and
// `count` is below it. place(pixel): where the first goes, negative where there is no such pixel.
// Every thread must call, after a barrier.
template <int kOutputs, bool kSummed, Accumulator kKind, typename Place>
__device__ __forceinline__ void take_sums(const QuantConv& c, const PackedWeights& weights,
                                          const uint4* tile, int64_t channel, int count,
                                          const Place& place) {
  using Element = std::conditional_t<kKind == kInt16, uint16_t, uint32_t>;  // values as words
  constexpr int kSize = 16 / sizeof(Element), kPackets = kOutputs / kSize;
  static_assert(kThreads % kPackets == 0, "a thread has a column of packets");
  const int first = static_cast<int>(threadIdx.x) % kPackets * kSize, left = count - first;
  if (left <= 0) return;
  const Elements<kSummed, kKind, kSize> elements(c, weights, channel + first, left);
#pragma unroll 1
  for (int pixel = static_cast<int>(threadIdx.x) / kPackets; pixel < kTilePixels;
       pixel += kThreads / kPackets) {
    const int64_t at = place(pixel);
    if (at < 0) continue;
    const unsigned* row = reinterpret_cast<const unsigned*>(tile) + pixel * SumTile<kOutputs>::kRow;
    const unsigned* sums = row + first;
    const unsigned codes = kSummed ? row[kOutputs - 1] : 0;
    Element* to = static_cast<Element*>(c.out) + at + first;
    Packet<Element> packet;
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      packet.values[e] = static_cast<Element>(elements.of(sums[e], codes, e));
    }
    if (left >= kSize && is_aligned(to)) {
      *reinterpret_cast<Packet<Element>*>(to) = packet;
      continue;
    }
#pragma unroll
    for (int e = 0; e < kSize; ++e) {
      if (e < left) to[e] = packet.values[e];
    }
  }
}

// Calls body(the kind of the sums as a constant).
template <typename Body>
int with_kind(Accumulator kind, const Body& body) {
  switch (kind) {
    case kInt16:
      return body(std::integral_constant<Accumulator, kInt16>());
    case kInt32:
      return body(std::integral_constant<Accumulator, kInt32>());
    default:
      return body(std::integral_constant<Accumulator, kValue>());
  }
}

}  // namespace micronet

#endif  // MICRONET_CUDA_CONV_TILE_H_
