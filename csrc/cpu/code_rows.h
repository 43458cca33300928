// The codes that make the sums of output pixels, row by row, where they do not lie so in memory.
#ifndef MICRONET_CPU_CODE_ROWS_H_
#define MICRONET_CPU_CODE_ROWS_H_

#include <algorithm>
#include <cstring>
#include <vector>

#include "include/conv.h"

namespace micronet {
namespace {

template <int kBytes>
inline void copy_twice(const uint8_t* from, int64_t count, uint8_t* to) {
  std::memcpy(to, from, kBytes);
  std::memcpy(to + count - kBytes, from + count - kBytes, kBytes);
}

// A copy of few bytes costs a call of memcpy; here two that overlap have any number of them.
inline void copy_codes(const uint8_t* from, int64_t count, uint8_t* to) {
  if (count > 32) {
    std::memcpy(to, from, static_cast<size_t>(count));
  } else if (count >= 16) {
    copy_twice<16>(from, count, to);
  } else if (count >= 8) {
    copy_twice<8>(from, count, to);
  } else if (count >= 4) {
    copy_twice<4>(from, count, to);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  }
}

// Gathers pixels one after the other; `outside` is the code of zero, which stands around an image.
class CodeRows {
 public:
  CodeRows(const ConvShape& shape, const uint8_t* codes, uint8_t outside)
      : s(shape),
        codes_(codes),
        outside_(outside),
        channels_(shape.group_channels()),
        // Whether the taps of a row lie side by side in the image as in the sum.
        is_run_(shape.groups == 1 && shape.dilation_x == 1),
        lines_(static_cast<size_t>(shape.kernel_height)) {}

  // Output pixels [first, first + count) of a group, `stride` bytes from one to the next.
  void gather(int64_t first, int64_t count, int64_t group, uint8_t* to, int64_t stride) {
    int64_t row = first / s.out_width, x = first % s.out_width;
    for (int64_t p = 0; p < count; ++p, ++x, to += stride) {
      if (x == s.out_width) ++row, x = 0;
      find_lines(row);
      const int64_t column = x * s.stride_x - s.left;
      is_run_ ? copy_runs(column, to) : copy_taps(column, group * channels_, to);
    }
  }

 private:
  const ConvShape s;
  const uint8_t* codes_;
  uint8_t outside_;
  int64_t channels_;
  bool is_run_;
  std::vector<const uint8_t*> lines_;  // of an image, below each row of taps; null outside it
  int64_t row_ = -1;                   // the row of outputs that they are below

  void find_lines(int64_t row) {
    if (row == row_) return;
    row_ = row;
    const int64_t image = row / s.out_height, top = row % s.out_height * s.stride_y - s.top;
    for (int64_t ky = 0; ky < s.kernel_height; ++ky) {
      const int64_t y = top + ky * s.dilation_y;
      const bool is_inside = y >= 0 && y < s.height;
      lines_[static_cast<size_t>(ky)] =
          is_inside ? codes_ + (image * s.height + y) * s.width * s.in_channels : nullptr;
    }
  }

  void fill(uint8_t* to, int64_t taps) const {
    std::memset(to, outside_, static_cast<size_t>(taps * channels_));
  }

  void copy_runs(int64_t column, uint8_t* to) const {
    const int64_t taps = s.kernel_width;
    // Taps [from, end) of a row lie in the image.
    const int64_t from = std::clamp(-column, int64_t{0}, taps);
    const int64_t end = std::clamp(s.width - column, from, taps);
    for (const uint8_t* line : lines_) {
      if (line == nullptr || from == end) {
        fill(to, taps);
      } else {
        if (from > 0) fill(to, from);
        copy_codes(line + (column + from) * channels_, (end - from) * channels_,
                   to + from * channels_);
        if (end < taps) fill(to + end * channels_, taps - end);
      }
      to += taps * channels_;
    }
  }

  void copy_taps(int64_t column, int64_t channel, uint8_t* to) const {
    for (const uint8_t* line : lines_) {
      for (int64_t kx = 0; kx < s.kernel_width; ++kx, to += channels_) {
        const int64_t at = column + kx * s.dilation_x;
        if (line == nullptr || at < 0 || at >= s.width) {
          fill(to, 1);
        } else {
          copy_codes(line + at * s.in_channels + channel, channels_, to);
        }
      }
    }
  }
};

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_CODE_ROWS_H_
