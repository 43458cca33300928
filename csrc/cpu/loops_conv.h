// The inner loops of convolutions over codes: dot products of bytes, and depthwise rows.
#ifndef MICRONET_CPU_LOOPS_CONV_H_
#define MICRONET_CPU_LOOPS_CONV_H_

#include <cstring>
#include <type_traits>

#include "loops.h"

namespace micronet {
namespace {

// Sixteen output channels and four products deep: what a Dots takes at a time.
constexpr int kDeep = 4;
constexpr int kPanelBytes = kWidth * kDeep;

template <typename T>
MICRONET_INLINE T from_int(int32_t v) {
  return static_cast<T>(v);
}

// Codes [first, first + count) of packed ones, a byte each.
inline void unpack(const uint8_t* packed, int64_t first, int64_t count, uint8_t* codes) {
  int64_t i = 0;
  if (count > 0 && first % 2 != 0) codes[i++] = packed[first / 2] >> 4;
  const uint8_t* p = packed + (first + i) / 2;
  for (; i + 2 <= count; i += 2, ++p) {
    codes[i] = *p & 15;
    codes[i + 1] = *p >> 4;
  }
  if (i < count) codes[i] = *p & 15;
}

// Writes the first `count` of sixteen sums.
MICRONET_INLINE void put(const Dots& sums, const ConvTile& tile, int64_t pixel, int64_t channel) {
  const int64_t at = pixel * tile.out_stride + channel, left = tile.out_channels - channel;
  const int count = left < kWidth ? static_cast<int>(left) : kWidth;
  const Dots whole = sums + Dots::load(tile.correction + channel);
  if (tile.kind == kInt32) {
    whole.store(static_cast<int32_t*>(tile.out) + at, count);
  } else if (tile.kind == kInt16) {
    whole.store(static_cast<int16_t*>(tile.out) + at, count);
  } else {
    store(whole.value() * Vector::load(tile.ratio + channel), static_cast<float*>(tile.out) + at,
          count);
  }
}

// kPixels by kPanels * 16 outputs, all in registers.
template <int kPixels, int kPanels>
MICRONET_INLINE void dot_block(const ConvTile& tile, int64_t pixel, int64_t channel) {
  Dots sums[kPixels][kPanels];
  for (auto& row : sums) {
    for (Dots& sum : row) sum = Dots::zero();
  }
  const uint8_t* x = tile.x + pixel * tile.x_stride;
  const int8_t* panel = tile.panels + channel * tile.depth;
  const int64_t next = kWidth * tile.depth;
  for (int64_t k = 0; k < tile.depth; k += kDeep) {
    Dots::Weights weights[kPanels];
    for (int c = 0; c < kPanels; ++c) weights[c] = Dots::weights(panel + c * next + k * kWidth);
    for (int p = 0; p < kPixels; ++p) {
      const auto four = Dots::four(x + p * tile.x_stride + k);
      for (int c = 0; c < kPanels; ++c) sums[p][c].add(four, weights[c]);
    }
  }
  for (int p = 0; p < kPixels; ++p) {
    for (int c = 0; c < kPanels; ++c) put(sums[p][c], tile, pixel + p, channel + c * kWidth);
  }
}

template <int kPanels>
MICRONET_INLINE void dot_columns(const ConvTile& tile, int64_t channel) {
  int64_t p = 0;
  for (; p + Dots::kPixels <= tile.pixels; p += Dots::kPixels) {
    dot_block<Dots::kPixels, kPanels>(tile, p, channel);
  }
  for (; p < tile.pixels; ++p) dot_block<1, kPanels>(tile, p, channel);
}

// All output channels of a tile, as many panels at a time as the registers hold.
inline void dot_tile(const ConvTile& tile) {
  int64_t channel = 0;
  while (channel < tile.out_channels) {
    const int64_t panels = (tile.out_channels - channel + kWidth - 1) / kWidth;
    if (panels >= Dots::kPanels) {
      dot_columns<Dots::kPanels>(tile, channel);
      channel += Dots::kPanels * kWidth;
    } else if (panels >= 2) {
      dot_columns<2>(tile, channel);
      channel += 2 * kWidth;
    } else {
      dot_columns<1>(tile, channel);
      channel += kWidth;
    }
  }
}

// One row of outputs of a depthwise convolution. Plain loops over channels, which compilers turn
// into vectors of sixteen 16-bit integers and more.
template <typename Sum, typename T>
MICRONET_INLINE void depthwise_pixel(const DepthwiseRow& row, int64_t x, int64_t from, int64_t to,
                                     T* out) {
  constexpr int64_t kBlock = 64;
  for (int64_t c0 = from; c0 < to; c0 += kBlock) {
    const int64_t count = to - c0 < kBlock ? to - c0 : kBlock;
    Sum sums[kBlock] = {};
    for (int64_t ky = 0; ky < row.kernel_height; ++ky) {
      const uint8_t* line = row.lines[ky];
      if (line == nullptr) continue;
      for (int64_t kx = 0; kx < row.kernel_width; ++kx) {
        const int64_t at = x * row.stride - row.left + kx * row.dilation;
        if (at < 0 || at >= row.width) continue;
        const uint8_t* codes = line + at * row.channels + c0;
        const int16_t* w = row.weights + (ky * row.kernel_width + kx) * row.channels + c0;
        const Sum zero = static_cast<Sum>(row.zero_point);
        if (count == kBlock) {
          for (int64_t c = 0; c < kBlock; ++c) {
            sums[c] = static_cast<Sum>(sums[c] + (codes[c] + zero) * w[c]);
          }
        } else {
          for (int64_t c = 0; c < count; ++c) {
            sums[c] = static_cast<Sum>(sums[c] + (codes[c] + zero) * w[c]);
          }
        }
      }
    }
    for (int64_t c = 0; c < count; ++c) {
      if constexpr (std::is_same_v<T, float>) {
        out[c0 + c] = static_cast<float>(sums[c]) * row.ratio[c0 + c];
      } else {
        out[c0 + c] = static_cast<T>(sums[c]);
      }
    }
  }
}

template <typename Sum, typename T>
inline void depthwise_row(const DepthwiseRow& row) {
  T* out = static_cast<T*>(row.out);
  for (int64_t x = 0; x < row.out_width; ++x) {
    depthwise_pixel<Sum>(row, x, 0, row.channels, out + x * row.channels);
  }
}

inline void depthwise_row_any(const DepthwiseRow& row) {
  if (row.kind == kInt16) {
    depthwise_row<int16_t, int16_t>(row);
  } else if (row.kind == kInt32) {
    depthwise_row<int32_t, int32_t>(row);
  } else if (row.fits_int16) {
    depthwise_row<int16_t, float>(row);
  } else {
    depthwise_row<int32_t, float>(row);
  }
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_LOOPS_CONV_H_
