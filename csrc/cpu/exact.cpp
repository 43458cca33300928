// Evaluation in float.

#include "include/exact.h"

#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace micronet {
namespace {

// Weights with the output channels side by side: [group, channel, tap, output of the group].
void transpose(const ConvShape& s, const float* w, float* to) {
  const int64_t outputs = s.out_channels / s.groups, depth = s.depth();
  for (int64_t o = 0; o < s.out_channels; ++o) {
    float* column = to + o / outputs * outputs * depth + o % outputs;
    for (int64_t k = 0; k < depth; ++k) column[k * outputs] = w[o * depth + k];
  }
}

// One output position of one group; w as `transpose` leaves it.
void convolve(const ConvShape& s, const float* x, int64_t image, int64_t row, int64_t column,
              int64_t group, const float* w, float* sums) {
  const int64_t outputs = s.out_channels / s.groups, channels = s.group_channels();
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t ky = 0; ky < s.kernel_height; ++ky) {
      const int64_t y = row * s.stride_y - s.top + ky * s.dilation_y;
      for (int64_t kx = 0; kx < s.kernel_width; ++kx, w += outputs) {
        const int64_t at = column * s.stride_x - s.left + kx * s.dilation_x;
        // What is padded would add a product of zero, which changes no sum that starts from zero.
        if (y < 0 || y >= s.height || at < 0 || at >= s.width) continue;
        const int64_t pixel = (image * s.height + y) * s.width + at;
        kernels().add_scaled(x[pixel * s.in_channels + group * channels + c], w, outputs, sums);
      }
    }
  }
}

}  // namespace

int conv2d_deterministic_cpu(const ConvShape& s, const float* x, const float* w, const float* bias,
                             float* workspace, float* y, const ParallelFor& parallel) {
  lay_out_conv2d_deterministic_cpu(s, w, workspace);
  return conv2d_deterministic_laid_out_cpu(s, x, workspace, bias, y, parallel);
}

int lay_out_conv2d_deterministic_cpu(const ConvShape& s, const float* w, float* laid_out) {
  transpose(s, w, laid_out);
  return kOk;
}

int conv2d_deterministic_laid_out_cpu(const ConvShape& s, const float* x, const float* laid_out,
                                      const float* bias, float* y, const ParallelFor& parallel) {
  const int64_t outputs = s.out_channels / s.groups;
  parallel_for(parallel, s.pixels(), s.out_channels * s.depth(), [&](int64_t from, int64_t to) {
    for (int64_t p = from; p < to; ++p) {
      const int64_t column = p % s.out_width, line = p / s.out_width;
      float* sums = y + p * s.out_channels;
      std::fill(sums, sums + s.out_channels, 0.0f);
      for (int64_t g = 0; g < s.groups; ++g) {
        convolve(s, x, line / s.out_height, line % s.out_height, column, g,
                 laid_out + g * outputs * s.depth(), sums + g * outputs);
      }
      if (bias == nullptr) continue;
      for (int64_t o = 0; o < s.out_channels; ++o) sums[o] = sums[o] + bias[o];
    }
  });
  return kOk;
}

int linear_deterministic_cpu(const float* x, const float* w, const float* ratio, const float* bias,
                             int64_t rows, int64_t depth, int64_t outputs, float* y,
                             const ParallelFor& parallel) {
  parallel_for(parallel, rows * outputs, depth, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const int64_t row = i / outputs, o = i % outputs;
      const float sum = kernels().dot_lanes(x + row * depth, w + o * depth, depth);
      y[i] = std::fma(sum, ratio[o], bias[o]);
    }
  });
  return kOk;
}

}  // namespace micronet
