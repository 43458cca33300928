// The inner loops of a depthwise convolution's gradients, over lines [blocks, positions, 16] of
// floats: sixteen channels side by side, so that every vector is aligned.
#ifndef MICRONET_CPU_ISA_LOOPS_DEPTHWISE_GRADIENT_H_
#define MICRONET_CPU_ISA_LOOPS_DEPTHWISE_GRADIENT_H_

#include <cstring>

#include "cpu/isa/loops.h"

namespace micronet {
namespace {

// Calls body(first channel, how many, where the block of them begins in a pixel of the line).
template <typename Body>
MICRONET_INLINE void for_blocks_of(const PixelLine& line, const Body& body) {
  for_vectors(line.channels, [&](int64_t c, int count)
                                 MICRONET_LAMBDA { body(c, count, c / kWidth * line.next_block); });
}

template <typename T>
void line_of_floats(const PixelLine& line, const T* from) {
  for (int64_t p = 0; p < line.pixels; ++p) {
    for_blocks_of(line, [&](int64_t c, int count, int64_t block) MICRONET_LAMBDA {
      const T* pixel = from + p * line.pitch + c;
      // The same pixel of the next line: the processor's own prefetching does not see the step.
      __builtin_prefetch(pixel + line.pixels * line.pitch);
      load(pixel, count).store(line.to + block + p * kWidth);
    });
  }
}

inline void line_of_nibbles(const PixelLine& line, const uint8_t* codes, int64_t first,
                            const float* table) {
  for (int64_t p = 0; p < line.pixels; ++p) {
    const uint8_t* pixel = codes + (first + p * line.pitch) / 2;
    for_blocks_of(line, [&](int64_t c, int count, int64_t block) MICRONET_LAMBDA {
      uint64_t word = 0;
      std::memcpy(&word, pixel + c / 2, static_cast<size_t>((count + 1) / 2));
      Vector::look_up(table, Vector::whole(Vector::from_nibbles(word)))
          .store(line.to + block + p * kWidth);
    });
  }
}

inline void line_of_bytes(const PixelLine& line, const uint8_t* codes, const float* table) {
  for (int64_t p = 0; p < line.pixels; ++p) {
    for_blocks_of(line, [&](int64_t c, int count, int64_t block) MICRONET_LAMBDA {
      uint8_t some[kWidth] = {};
      const uint8_t* bytes = codes + p * line.pitch + c;
      if (count < kWidth) bytes = static_cast<uint8_t*>(std::memcpy(some, bytes, count));
      Vector::gather(table, bytes).store(line.to + block + p * kWidth);
    });
  }
}

// Where a pixel may begin in the middle of a byte.
inline void line_of_odd_nibbles(const PixelLine& line, const uint8_t* codes, int64_t first,
                                const float* table) {
  for (int64_t p = 0; p < line.pixels; ++p) {
    for (int64_t c = 0; c < line.channels; ++c) {
      const int64_t i = first + p * line.pitch + c;
      line.to[c / kWidth * line.next_block + p * kWidth + c % kWidth] =
          table[codes[i / 2] >> (i % 2 * 4) & 15];
    }
  }
}

inline void line_of_codes(const PixelLine& line, const uint8_t* codes, int64_t first,
                          const float* table, int levels) {
  if (!are_half_bytes(levels)) {
    line_of_bytes(line, codes + first, table);
  } else if (line.pitch % 2 != 0) {
    line_of_odd_nibbles(line, codes, first, table);
  } else {
    line_of_nibbles(line, codes, first, table);
  }
}

// The gradient to kPixels pixels of one block, one stride apart.
template <int kPixels, typename T>
MICRONET_INLINE void image_gradient_block(const ImageGradientRow& row, int64_t block, int64_t pixel,
                                          int count, T* out) {
  Vector sums[kPixels];
  for (Vector& sum : sums) sum = Vector::all(0.0f);
  const int64_t line_at = block * row.next_line_block + pixel * kWidth;
  const int64_t weight_at = block * row.next_weight_block;
  for (int64_t y = 0; y < row.lines.count; ++y) {
    const float* line = row.lines.lines[y] + line_at;
    const float* weights = row.lines.weights[y] + weight_at;
    for (int64_t t = 0; t < row.tap_count; ++t) {
      const float* from = line + row.taps[t].line_at;
      const Vector w = Vector::load(weights + row.taps[t].weight_at);
      for (int p = 0; p < kPixels; ++p) {
        sums[p] = Vector::fma(Vector::load(from + p * kWidth), w, sums[p]);
      }
    }
  }
  T* to = out + pixel * row.next_pixel + block * kWidth;
  if (row.streamed) {
    for (int p = 0; p < kPixels; ++p) store<true>(sums[p], to + p * row.next_pixel, count);
  } else {
    for (int p = 0; p < kPixels; ++p) store(sums[p], to + p * row.next_pixel, count);
  }
}

// The last pixels are computed twice where kPixels does not divide their number.
template <int kPixels, typename T>
MICRONET_INLINE void image_gradient_by(const ImageGradientRow& row, T* out) {
  for_vectors(row.channels, [&](int64_t c, int count) MICRONET_LAMBDA {
    for (int64_t p = 0; p < row.pixels; p += kPixels) {
      const int64_t last = row.pixels - kPixels;
      image_gradient_block<kPixels>(row, c / kWidth, p < last ? p : last, count, out);
    }
  });
}

// Images of 224 pixels leave lines of 56, 28, 14 and 7.
template <typename T>
void image_gradient_row(const ImageGradientRow& row, T* out) {
  if (row.pixels % 7 == 0 && row.pixels % 8 != 0) {
    image_gradient_by<7>(row, out);
  } else if (row.pixels >= 8) {
    image_gradient_by<8>(row, out);
  } else if (row.pixels >= 4) {
    image_gradient_by<4>(row, out);
  } else {
    image_gradient_by<1>(row, out);
  }
  if (row.streamed) Vector::fence();
}

// The sums of kRows by kColumns taps of one block over a row of outputs.
template <int kRows, int kColumns>
MICRONET_INLINE void weight_gradient_block(const WeightGradientRow& row, int64_t block, int64_t ky,
                                           int64_t kx) {
  Vector sums[kRows][kColumns];
  const float* lines[kRows];
  for (int y = 0; y < kRows; ++y) {
    for (Vector& sum : sums[y]) sum = Vector::all(0.0f);
    lines[y] = row.lines[ky + y] + block * row.next_line_block + kx * row.next_tap;
  }
  const float* grad = row.grad + block * row.next_grad_block;
  for (int64_t o = 0; o < row.outputs; ++o) {
    const Vector g = Vector::load(grad + o * kWidth);
    for (int y = 0; y < kRows; ++y) {
      for (int x = 0; x < kColumns; ++x) {
        sums[y][x] =
            Vector::fma(g, Vector::load(lines[y] + o * row.next_output + x * kWidth), sums[y][x]);
      }
    }
  }
  float* to = row.sums + ((block * row.tap_rows + ky) * row.tap_columns + kx) * kWidth;
  for (int y = 0; y < kRows; ++y) {
    for (int x = 0; x < kColumns; ++x) {
      float* sum = to + (y * row.tap_columns + x) * kWidth;
      (Vector::load(sum) + sums[y][x]).store(sum);
    }
  }
}

// As many rows of taps at a time as the registers hold, of those whose lines are in the image.
template <int kMostRows, int kColumns>
MICRONET_INLINE void weight_gradient_by(const WeightGradientRow& row) {
  for (int64_t block = 0; block < row.blocks; ++block) {
    for (int64_t kx = 0; kx < row.tap_columns; kx += kColumns) {
      int64_t ky = row.from;
      for (; ky + kMostRows <= row.to; ky += kMostRows) {
        weight_gradient_block<kMostRows, kColumns>(row, block, ky, kx);
      }
      for (; ky < row.to; ++ky) weight_gradient_block<1, kColumns>(row, block, ky, kx);
    }
  }
}

// Rows of a square kernel whose sums the registers hold.
constexpr int rows_of(int columns) {
  const int rows = Vector::kMostSums / columns;
  return rows < 1 ? 1 : rows < columns ? rows : columns;
}

inline void weight_gradient_row(const WeightGradientRow& row) {
  const bool dense = row.next_tap == kWidth;
  if (dense && row.tap_columns == 3) {
    weight_gradient_by<rows_of(3), 3>(row);
  } else if (dense && row.tap_columns == 5) {
    weight_gradient_by<rows_of(5), 5>(row);
  } else if (dense && row.tap_columns == 7) {
    weight_gradient_by<rows_of(7), 7>(row);
  } else {
    weight_gradient_by<1, 1>(row);
  }
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_LOOPS_DEPTHWISE_GRADIENT_H_
