// Depthwise convolution of codes of a byte each, one or two vectors of channels after the other, so
// that the lines of codes below an output row stay in the nearest cache. Its sums have a reader.
#ifndef MICRONET_CPU_DEPTHWISE_BLOCKS_H_
#define MICRONET_CPU_DEPTHWISE_BLOCKS_H_

#include "cpu/depthwise.h"

namespace micronet {
namespace {

constexpr int64_t kReadPixels = 64;    // whose sums a reader gets at a time, or a row's
constexpr int64_t kRingBytes = 26000;  // of two vectors of channels, which is to stay in the cache

struct DepthwiseBlock {
  const ConvOperands& o;
  const ConvShape& s;
  const TapColumns columns;
  const int64_t vectors;    // of channels at a time
  int64_t first, channels;  // of the block
  std::vector<uint8_t> memory;
  uint8_t* ring;  // on a cache line
  std::vector<int32_t> correction;
  std::vector<uint8_t> sums;  // of some rows

  explicit DepthwiseBlock(const ConvOperands& of)
      : o(of),
        s(of.s),
        columns(of.s),
        vectors(vectors_of(of.s)),
        memory(static_cast<size_t>(columns.span * line_bytes() + 64)),
        ring(memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64),
        correction(static_cast<size_t>(vectors * kLine)),
        sums(static_cast<size_t>(rows_together() * s.out_width * vectors * kLine *
                                 of.out_width_bytes())) {}

  // Two, so that whole cache lines of codes are read, where there are as many and the lines of a
  // row stay in the nearest cache.
  static int64_t vectors_of(const ConvShape& s) {
    const TapColumns columns(s);
    return s.out_channels > kLine && 4 * kLine * columns.span * columns.positions <= kRingBytes ? 2
                                                                                                : 1;
  }

  int64_t line_bytes() const { return 2 * vectors * kLine * columns.positions; }
  int64_t rows_together() const { return (kReadPixels + s.out_width - 1) / s.out_width; }
  uint8_t* line(int64_t y) const { return ring + y % columns.span * line_bytes(); }

  void enter(int64_t block) {
    first = block * vectors * kLine;
    channels = std::min(vectors * kLine, s.out_channels - first);
  }

  void fill(int64_t image, int64_t y) const {
    kernels().pair_line({o.c.codes + (image * s.height + y) * s.width * s.in_channels + first,
                         s.in_channels, s.width, channels, -s.left, columns.step, s.dilation_x,
                         columns.positions, vectors * kLine, o.code_of_zero(), line(y)});
  }

  // The output rows [from, to) of an image.
  void run(int64_t image, int64_t from, int64_t to) {
    int64_t ready = 0, corrected = -1;
    std::vector<const uint8_t*> taps(static_cast<size_t>(s.kernel_height));
    const int64_t together = rows_together(),
                  row_bytes = s.out_width * channels * o.out_width_bytes();
    for (int64_t y = from; y < to; ++y) {
      const int64_t top = y * s.stride_y - s.top;
      const TapRows rows(s, top);
      for (ready = std::max({ready, top, int64_t{0}});
           ready < std::min(top + columns.span, s.height); ++ready) {
        fill(image, ready);
      }
      for (int64_t ky = rows.from; ky < rows.to; ++ky) {
        taps[static_cast<size_t>(ky - rows.from)] = line(top + ky * s.dilation_y);
      }
      const int64_t which = rows.from * (s.kernel_height + 1) + rows.to;
      if (which != corrected) correct(o, rows, first, &correction);
      corrected = which;
      const int64_t nth = (y - from) % together;
      add_row(taps.data(), rows, sums.data() + nth * row_bytes);
      if (nth + 1 < together && y + 1 < to) continue;
      o.c.reader->read(o.c.reader->context, {sums.data(), o.c.kind, channels,
                                             (image * s.out_height + y - nth) * s.out_width,
                                             (nth + 1) * s.out_width, first, channels});
    }
  }

  void add_row(const uint8_t* const* taps, const TapRows& rows, void* out) const {
    const bool narrow = o.is_narrow();
    const int64_t to_output = 2 * s.stride_x / columns.step * vectors * kLine;
    const int64_t to_pair = 4 * s.dilation_x / columns.step * vectors * kLine;
    const int64_t weight = 2 * (rows.from * tap_pairs(s) * o.at.line_channels + first);
    kernels().depthwise_row({taps, to_output, to_pair, rows.to - rows.from, tap_pairs(s), channels,
                             o.at.line_channels, o.panels() + weight * (narrow ? 1 : 2),
                             correction.data(), o.padded_ratio() + first, narrow, o.c.kind, out,
                             s.out_width});
  }
};

inline void run_depthwise_blocks(const ConvOperands& o, const ParallelFor& parallel) {
  const ConvShape& s = o.s;
  const int64_t band = o.c.reader->in_order ? s.out_height : std::min(2 * kBand, s.out_height);
  const int64_t bands = (s.out_height + band - 1) / band;
  const int64_t width = DepthwiseBlock::vectors_of(s) * kLine;
  const int64_t blocks = (s.out_channels + width - 1) / width;
  parallel_for(parallel, s.images * blocks * bands, band * s.out_width * width,
               [&](int64_t from, int64_t to) {
                 DepthwiseBlock block(o);
                 for (int64_t b = from; b < to; ++b) {
                   const int64_t y = b % bands * band;
                   block.enter(b / bands % blocks);
                   block.run(b / bands / blocks, y, std::min(y + band, s.out_height));
                 }
               });
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_DEPTHWISE_BLOCKS_H_
