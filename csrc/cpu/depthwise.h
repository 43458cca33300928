// Depthwise convolution of codes, band by band of output rows.
#ifndef MICRONET_CPU_DEPTHWISE_H_
#define MICRONET_CPU_DEPTHWISE_H_

#include <algorithm>
#include <numeric>

#include "cpu/conv_operands.h"

namespace micronet {
namespace {

constexpr int64_t kBand = 16;  // output rows that share their lines

// The positions of a line of codes that the pairs of taps of an output row meet.
struct TapColumns {
  int64_t span;  // lines that one output row reaches over
  int64_t step;  // columns from one position to the next
  int64_t positions;

  explicit TapColumns(const ConvShape& s)
      : span((s.kernel_height - 1) * s.dilation_y + 1),
        step(std::gcd(s.stride_x, 2 * s.dilation_x)),
        positions(((s.out_width - 1) * s.stride_x + 2 * (tap_pairs(s) - 1) * s.dilation_x) / step +
                  1) {}
};

// A ring of input lines as DepthwiseRow reads them, [positions, channels, 2]: at each position the
// codes of the two pixels that neighboring taps meet.
struct DepthwiseLines : TapColumns {
  const ConvOperands& operands;
  int64_t channels;
  std::vector<uint8_t> ring, outside;

  explicit DepthwiseLines(const ConvOperands& of)
      : TapColumns(of.s),
        operands(of),
        channels(of.line_pitch()),
        // Whole vectors are read from the last position on.
        ring(static_cast<size_t>(2 * (span * positions * channels + kLine)), of.code_of_zero()),
        outside(static_cast<size_t>(of.s.in_channels),
                static_cast<uint8_t>(of.code_of_zero() * (of.has_halves() ? 0x11 : 1))) {}

  uint8_t* line(int64_t y) {
    return ring.data() + (y % span + span) % span * 2 * positions * channels;
  }

  // Of a line inside the image.
  void fill(int64_t image, int64_t y) {
    const ConvShape& s = operands.s;
    const int64_t first = (image * s.height + y) * s.width;
    for (int64_t p = 0; p < positions;) {
      const int64_t column = p * step - s.left, alike = pixels_in_a_row(column);
      const int64_t count = alike < positions - p ? alike : positions - p;
      pairs_at(first, column, count, line(y) + 2 * p * channels);
      p += count;
    }
  }

  // From a column on, the positions whose pixels follow each other in memory as in the line.
  int64_t pixels_in_a_row(int64_t column) const {
    const ConvShape& s = operands.s;
    const int64_t inside = s.width - s.dilation_x - column;
    return step == 1 && channels == s.in_channels && column >= 0 && inside > 1 ? inside : 1;
  }

  void pairs_at(int64_t first, int64_t column, int64_t count, uint8_t* to) const {
    const ConvShape& s = operands.s;
    const int64_t neighbor = column + s.dilation_x;
    const bool left = column >= 0 && column < s.width;
    const bool right = neighbor >= 0 && neighbor < s.width;
    const int64_t a = (first + column) * s.in_channels, b = (first + neighbor) * s.in_channels;
    if (!operands.has_halves()) {
      kernels().pair_bytes(left ? operands.c.codes + a : outside.data(),
                           right ? operands.c.codes + b : outside.data(), count * s.in_channels,
                           to);
      return;
    }
    if (s.in_channels % 2 == 0) {
      kernels().unpack_pairs(left ? operands.c.codes + a / 2 : outside.data(),
                             right ? operands.c.codes + b / 2 : outside.data(),
                             count * s.in_channels / 2, to);
      return;
    }
    for (int64_t c = 0; c < count * s.in_channels; ++c) {
      to[2 * c] = left ? operands.code_at(a + c) : operands.code_of_zero();
      to[2 * c + 1] = right ? operands.code_at(b + c) : operands.code_of_zero();
    }
  }
};

// The rows of taps [from, to) that lie inside the image below some output row.
struct TapRows {
  int64_t from, to;

  TapRows(const ConvShape& s, int64_t first_line) : from(0), to(s.kernel_height) {
    while (from < to && first_line + from * s.dilation_y < 0) ++from;
    while (from < to && first_line + (to - 1) * s.dilation_y >= s.height) --to;
  }
};

// The correction of some rows of taps, of as many channels from the `first` on; those outside the
// image are left out, which is a sum of zeros.
inline void correct(const ConvOperands& o, const TapRows& rows, int64_t first,
                    std::vector<int32_t>* correction) {
  std::fill(correction->begin(), correction->end(), 0);
  for (int64_t ky = rows.from; ky < rows.to; ++ky) {
    const int32_t* of_row = o.correction() + ky * o.at.line_channels + first;
    const int64_t count =
        std::min(static_cast<int64_t>(correction->size()), o.at.line_channels - first);
    for (int64_t c = 0; c < count; ++c) (*correction)[static_cast<size_t>(c)] += of_row[c];
  }
}

// Where the sums have a reader, it has those of a row at a time, in `row_sums` until then.
inline void run_band(const ConvOperands& o, int64_t image, int64_t from, int64_t to,
                     DepthwiseLines* lines, void* row_sums) {
  const ConvShape& s = o.s;
  const int64_t together = o.line_pixels(), row_size = s.out_width * s.out_channels;
  const int64_t to_output = 2 * together * s.stride_x / lines->step * lines->channels;
  const int64_t to_pair = 4 * s.dilation_x / lines->step * lines->channels;
  const bool narrow = o.is_narrow();
  std::vector<const uint8_t*> taps(static_cast<size_t>(s.kernel_height));
  std::vector<int32_t> correction(static_cast<size_t>(o.at.line_channels));
  int64_t ready = from * s.stride_y - s.top, corrected = -1;
  for (int64_t y = from; y < to; ++y) {
    const int64_t first = y * s.stride_y - s.top;
    const TapRows rows(s, first);
    if (ready < first) ready = first;
    for (; ready < first + lines->span; ++ready) {
      if (ready >= 0 && ready < s.height) lines->fill(image, ready);
    }
    for (int64_t ky = rows.from; ky < rows.to; ++ky) {
      taps[static_cast<size_t>(ky - rows.from)] = lines->line(first + ky * s.dilation_y);
    }
    const int64_t which = rows.from * (s.kernel_height + 1) + rows.to;
    if (which != corrected) correct(o, rows, 0, &correction);
    corrected = which;
    const int64_t first_weight = rows.from * tap_pairs(s) * 2 * o.at.line_channels;
    const void* weights = o.panels() + first_weight * (narrow ? 1 : 2);
    const int64_t row = image * s.out_height + y;
    void* out = o.c.reader == nullptr ? o.out(row * row_size) : row_sums;
    kernels().depthwise_row({taps.data(), to_output, to_pair, rows.to - rows.from, tap_pairs(s),
                             together * s.out_channels, o.at.line_channels, weights,
                             correction.data(), o.padded_ratio(), narrow, o.c.kind, out,
                             s.out_width / together});
    if (o.c.reader == nullptr) continue;
    o.c.reader->read(o.c.reader->context, {out, o.c.kind, s.out_channels, row * s.out_width,
                                           s.out_width, 0, s.out_channels});
  }
}

inline void run_depthwise(const ConvOperands& o, const ParallelFor& parallel) {
  const ConvShape& s = o.s;
  const bool has_reader = o.c.reader != nullptr;
  const int64_t band = has_reader && o.c.reader->in_order ? s.out_height : kBand;
  const int64_t bands = (s.out_height + band - 1) / band, row_size = s.out_width * s.out_channels;
  parallel_for(parallel, s.images * bands, band * row_size, [&](int64_t from, int64_t to) {
    DepthwiseLines lines(o);
    std::vector<uint8_t> sums(static_cast<size_t>(has_reader ? row_size * o.out_width_bytes() : 0));
    for (int64_t b = from; b < to; ++b) {
      const int64_t y = b % bands * band;
      run_band(o, b / bands, y, std::min(y + band, s.out_height), &lines, sums.data());
    }
  });
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_DEPTHWISE_H_
