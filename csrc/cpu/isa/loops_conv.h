// The inner loops of convolutions over codes: dot products of bytes, and depthwise rows.
#ifndef MICRONET_CPU_ISA_LOOPS_CONV_H_
#define MICRONET_CPU_ISA_LOOPS_CONV_H_

#include <cstring>

#include "cpu/isa/loops.h"

namespace micronet {
namespace {

// Sixteen output channels and four products deep: what a Dots takes at a time.
constexpr int kPack = 4;
constexpr int kPanelBytes = kWidth * kPack;

// Codes [first, first + count) of packed ones.
inline void unpack(const uint8_t* packed, int64_t first, int64_t count, uint8_t* codes) {
  const auto low = [&](uint8_t two) { return static_cast<uint8_t>(two & 15); };
  const auto high = [&](uint8_t two) { return static_cast<uint8_t>(two >> 4); };
  if (count > 0 && first % 2 != 0) {
    *codes++ = high(packed[first / 2]);
    ++first, --count;
  }
  const uint8_t* p = packed + first / 2;
  for (int64_t i = 0; i < count / 2; ++i) {
    codes[2 * i] = low(p[i]);
    codes[2 * i + 1] = high(p[i]);
  }
  if (count % 2 != 0) codes[count - 1] = low(p[count / 2]);
}

inline void unpack_pairs(const uint8_t* left, const uint8_t* right, int64_t bytes, uint8_t* pairs) {
  int64_t i = 0;
  for (; i + 16 <= bytes; i += 16) Shorts::interleave(left + i, right + i, 16, pairs + 4 * i);
  if (i < bytes) {
    Shorts::interleave(left + i, right + i, static_cast<int>(bytes - i), pairs + 4 * i);
  }
}

inline void pair_bytes(const uint8_t* left, const uint8_t* right, int64_t bytes, uint8_t* pairs) {
#pragma GCC ivdep
  for (int64_t i = 0; i < bytes; ++i) {
    pairs[2 * i] = left[i];
    pairs[2 * i + 1] = right[i];
  }
}

// Where the codes of a column stand: in the line, or among as many codes of zero.
MICRONET_INLINE const uint8_t* codes_at(const PairLine& line, int64_t column,
                                        const uint8_t* outside) {
  return column < 0 || column >= line.width ? outside : line.codes + column * line.stride;
}

inline void pair_line(const PairLine& line) {
  constexpr int64_t kMost = 64, kOnce = 32;
  uint8_t outside[kMost];
  std::memset(outside, line.zero, kMost);
  uint8_t* pairs = line.pairs;
  for (int64_t p = 0; p < line.positions; ++p, pairs += 2 * line.pitch) {
    const int64_t column = line.first + p * line.step;
    const uint8_t* left = codes_at(line, column, outside);
    const uint8_t* right = codes_at(line, column + line.distance, outside);
    int64_t c = 0;
    for (; c + kOnce <= line.channels; c += kOnce) Shorts::pair(left + c, right + c, pairs + 2 * c);
    if (c < line.channels) pair_bytes(left + c, right + c, line.channels - c, pairs + 2 * c);
  }
}

template <typename D>
void sum_codes(const uint8_t* x, int64_t stride, int64_t pixels, int64_t depth, int32_t* sums) {
  constexpr int64_t kOnce = kWidth * kPack;
  const int32_t ones = 0x01010101;
  const auto each_once = D::signed_four(ones);
  for (int64_t p = 0; p < pixels; ++p, x += stride) {
    D found = D::zero();
    int64_t k = 0;
    for (; k + kOnce <= depth; k += kOnce) found.template add_pixels<false>(x + k, each_once);
    const int64_t left = depth - k;
    if constexpr (D::kReadsSome) {
      if (left > 0) found.add_some_pixels(x + k, static_cast<int>(left), each_once);
    } else if (left > 0) {
      uint8_t last[kOnce] = {};
      std::memcpy(last, x + k, static_cast<size_t>(left));
      found.template add_pixels<false>(last, each_once);
    }
    int32_t lanes[kWidth], sum = 0;
    found.store(lanes, kWidth, false);
    for (int32_t lane : lanes) sum += lane;
    sums[p] = sum;
  }
}

// Writes the first `count` of sixteen sums.
MICRONET_INLINE void store_sums(const Dots& sums, const ConvTile& tile, int64_t pixel,
                                int64_t channel) {
  const int64_t at = pixel * tile.out_stride + channel, left = tile.out_channels - channel;
  const int count = left < kWidth ? static_cast<int>(left) : kWidth;
  Dots whole = sums + Dots::load(tile.correction + channel);
  if (tile.offset != nullptr) whole = whole.plus(tile.offset + channel, tile.pixel_sums[pixel]);
  if (tile.kind == kInt32) {
    whole.store(static_cast<int32_t*>(tile.out) + at, count, tile.streamed);
  } else if (tile.kind == kInt16) {
    whole.store(static_cast<int16_t*>(tile.out) + at, count, tile.streamed);
  } else {
    store(whole.value() * Vector::load(tile.ratio + channel), static_cast<float*>(tile.out) + at,
          count);
  }
}

// kPixels by kPanels * 16 outputs, all in registers.
template <bool kWide, int kPixels, int kPanels>
MICRONET_INLINE void dot_block(const ConvTile& tile, int64_t pixel, int64_t channel) {
  Dots sums[kPixels][kPanels];
  for (auto& row : sums) {
    for (Dots& sum : row) sum = Dots::zero();
  }
  const uint8_t* x = tile.x + pixel * tile.x_stride;
  const int8_t* panel = tile.panels + channel * tile.depth;
  const int64_t next = kWidth * tile.depth;
  for (int64_t k = 0; k < tile.depth; k += kPack) {
    Dots::Weights weights[kPanels];
    for (int c = 0; c < kPanels; ++c) weights[c] = Dots::weights(panel + c * next + k * kWidth);
    for (int p = 0; p < kPixels; ++p) {
      const auto four = Dots::four(x + p * tile.x_stride + k);
      for (int c = 0; c < kPanels; ++c) sums[p][c].template add<kWide>(four, weights[c]);
    }
  }
  for (int p = 0; p < kPixels; ++p) {
    for (int c = 0; c < kPanels; ++c) store_sums(sums[p][c], tile, pixel + p, channel + c * kWidth);
  }
}

// All output channels of some pixels, as many panels at a time as the registers hold.
template <bool kWide, int kPixels>
MICRONET_INLINE void dot_row(const ConvTile& tile, int64_t pixel) {
  int64_t channel = 0;
  while (channel < tile.out_channels) {
    const int64_t panels = (tile.out_channels - channel + kWidth - 1) / kWidth;
    if (panels >= Dots::kPanels) {
      dot_block<kWide, kPixels, Dots::kPanels>(tile, pixel, channel);
      channel += Dots::kPanels * kWidth;
    } else if (panels >= 2) {
      dot_block<kWide, kPixels, 2>(tile, pixel, channel);
      channel += 2 * kWidth;
    } else {
      dot_block<kWide, kPixels, 1>(tile, pixel, channel);
      channel += kWidth;
    }
  }
}

template <bool kWide>
void dot_pixels(const ConvTile& tile) {
  int64_t p = 0;
  for (; p + Dots::kPixels <= tile.pixels; p += Dots::kPixels) {
    dot_row<kWide, Dots::kPixels>(tile, p);
  }
  for (; p < tile.pixels; ++p) dot_row<kWide, 1>(tile, p);
}

inline void dot_pixels(const ConvTile& tile) {
  tile.wide ? dot_pixels<true>(tile) : dot_pixels<false>(tile);
}

// Pixel by pixel where the weights stay in the nearest cache, so that whole lines are written one
// after the other; else a few panels of weights at a time for all pixels.
inline void dot_tile(const ConvTile& tile) {
  constexpr int64_t kNearBytes = 24576;
  if (tile.out_channels * tile.depth <= kNearBytes) {
    dot_pixels(tile);
  } else {
    constexpr int64_t kStep = Dots::kPanels * kWidth;
    for (int64_t channel = 0; channel < tile.out_channels; channel += kStep) {
      ConvTile part = tile;
      part.panels += channel * tile.depth;
      part.correction += channel;
      if (tile.offset != nullptr) part.offset += channel;
      part.ratio += channel;
      part.out = static_cast<char*>(tile.out) + channel * (tile.kind == kInt16 ? 2 : 4);
      const int64_t left = tile.out_channels - channel;
      part.out_channels = left < kStep ? left : kStep;
      dot_pixels(part);
    }
  }
  Vector::fence();
}

// kPixels outputs of as many channels of a depthwise convolution as Sums has lanes; `count` of the
// channels are written.
template <typename Sums, int kPixels>
MICRONET_INLINE void depthwise_block(const DepthwiseRow& row, int64_t x, int64_t c, int count) {
  Sums sums[kPixels];
  for (Sums& sum : sums) sum = Sums::start(row.correction + c);
  const auto* w = static_cast<const typename Sums::Weight*>(row.weights) + 2 * c;
  for (int64_t ky = 0; ky < row.tap_rows; ++ky) {
    const uint8_t* in = row.lines[ky] + x * row.next_output + 2 * c;
    for (int64_t pair = 0; pair < row.tap_pairs; ++pair) {
      const auto two = Sums::weights(w);
      for (int p = 0; p < kPixels; ++p) sums[p].add(in + p * row.next_output, two);
      in += row.next_pair;
      w += 2 * row.padded;
    }
  }
  for (int p = 0; p < kPixels; ++p) {
    const int64_t at = (x + p) * row.channels + c;
    if (row.kind == kValue) {
      sums[p].store_values(row.ratio + c, static_cast<float*>(row.out) + at, count);
    } else if (row.kind == kInt16) {
      sums[p].store(static_cast<int16_t*>(row.out) + at, count);
    } else if constexpr (sizeof(typename Sums::Weight) == 2) {
      sums[p].store(static_cast<int32_t*>(row.out) + at, count);
    }
  }
}

template <typename Sums, int kPixels>
MICRONET_INLINE void depthwise_row_by(const DepthwiseRow& row) {
  for (int64_t c = 0; c < row.channels; c += Sums::kLanes) {
    const int64_t left = row.channels - c;
    const int count = left < Sums::kLanes ? static_cast<int>(left) : Sums::kLanes;
    int64_t x = 0;
    for (; x + kPixels <= row.out_width; x += kPixels) {
      depthwise_block<Sums, kPixels>(row, x, c, count);
    }
    for (; x + 2 <= row.out_width; x += 2) depthwise_block<Sums, 2>(row, x, c, count);
    for (; x < row.out_width; ++x) depthwise_block<Sums, 1>(row, x, c, count);
  }
}

// Images of 224 pixels leave lines of 56, 28, 14 and 7.
template <typename Sums>
void depthwise_row_of(const DepthwiseRow& row) {
  row.out_width % 7 == 0 && row.out_width % 8 != 0 ? depthwise_row_by<Sums, 7>(row)
                                                   : depthwise_row_by<Sums, 8>(row);
}

inline void depthwise_row(const DepthwiseRow& row) {
  row.fits_int16 ? depthwise_row_of<Shorts>(row) : depthwise_row_of<Longs>(row);
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_LOOPS_CONV_H_
