// Evaluation in float.

#include "include/exact.h"

#include <algorithm>
#include <cmath>
#include <vector>

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

constexpr int64_t kPatchFloats = 8192;  // of a patch, which is to stay in the nearest cache

// Floats that lie `step` apart, by loops that are vectors for the steps of common convolutions.
void copy_apart(const float* from, int64_t step, int64_t count, float* to) {
  if (step == 1) {
    std::copy_n(from, count, to);
  } else if (step == 2) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[2 * i];
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[step * i];
  }
}

// What [depth, pixels] of a group the output pixels from `column` on are sums of, zeros outside the
// image.
void gather(const ConvShape& s, const Images& images, int64_t line, int64_t column, int64_t pixels,
            int64_t group, float* patch) {
  const int64_t channels = s.group_channels();
  const int64_t image = line / s.out_height, row = line % s.out_height;
  for (int64_t k = 0; k < s.depth(); ++k, patch += pixels) {
    const int64_t c = k / s.taps(), tap = k % s.taps();
    const int64_t y = row * s.stride_y - s.top + tap / s.kernel_width * s.dilation_y;
    const int64_t first = column * s.stride_x - s.left + tap % s.kernel_width * s.dilation_x;
    // The pixels [from, end) whose columns [first + p * stride] are in the image.
    const int64_t from = first < 0 ? std::min((-first + s.stride_x - 1) / s.stride_x, pixels) : 0;
    const int64_t inside = first < s.width ? (s.width - 1 - first) / s.stride_x + 1 : 0;
    const int64_t end = y < 0 || y >= s.height ? from : std::max(std::min(inside, pixels), from);
    std::fill_n(patch, from, 0.0f);
    std::fill(patch + end, patch + pixels, 0.0f);
    if (from == end) continue;
    const float* in = images.x + image * images.image + y * images.row +
                      (first + from * s.stride_x) * images.column +
                      (group * channels + c) * images.channel;
    copy_apart(in, s.stride_x * images.column, end - from, patch + from);
  }
}

// The sums of `pixels` outputs of a line from `column` on, which lie side by side.
void add_up(const ConvShape& s, const Images& images, int64_t line, int64_t column, int64_t pixels,
            const float* laid_out, const float* bias, float* patch, float* out) {
  const int64_t outputs = s.out_channels / s.groups;
  for (int64_t g = 0; g < s.groups; ++g) {
    gather(s, images, line, column, pixels, g, patch);
    kernels().fma_tile({patch, pixels, pixels, s.depth(), laid_out + g * outputs * s.depth(),
                        outputs, out + g * outputs, s.out_channels});
  }
  if (bias == nullptr) return;
  for (int64_t p = 0; p < pixels; ++p, out += s.out_channels) {
    for (int64_t o = 0; o < s.out_channels; ++o) out[o] = out[o] + bias[o];
  }
}

// Calls body(line, first column, pixels, patch, memory for their sums) over all outputs; lines of
// an image come in their order from one thread where `in_order`.
template <typename Body>
void for_patches(const ConvShape& s, bool in_order, bool has_sums, const ParallelFor& parallel,
                 const Body& body) {
  const int64_t most = std::clamp<int64_t>(kPatchFloats / s.depth(), 1, s.out_width);
  const int64_t lines = in_order ? s.out_height : 1;
  parallel_for(parallel, s.images * s.out_height / lines,
               lines * s.out_width * s.out_channels * s.depth(), [&](int64_t from, int64_t to) {
                 std::vector<float> patch(static_cast<size_t>(most * s.depth()));
                 std::vector<float> sums(static_cast<size_t>(has_sums ? most * s.out_channels : 0));
                 for (int64_t line = from * lines; line < to * lines; ++line) {
                   for (int64_t column = 0; column < s.out_width; column += most) {
                     body(line, column, std::min(most, s.out_width - column), patch.data(),
                          sums.data());
                   }
                 }
               });
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
  const Images images{x, s.height * s.width * s.in_channels, s.width * s.in_channels, s.in_channels,
                      1};
  for_patches(s, false, false, parallel,
              [&](int64_t line, int64_t column, int64_t pixels, float* patch, float*) {
                float* out = y + (line * s.out_width + column) * s.out_channels;
                add_up(s, images, line, column, pixels, laid_out, bias, patch, out);
              });
  return kOk;
}

int conv2d_deterministic_read_cpu(const ConvShape& s, const Images& images, const float* laid_out,
                                  const float* bias, const SumsReader& reader,
                                  const ParallelFor& parallel) {
  for_patches(s, reader.in_order, true, parallel,
              [&](int64_t line, int64_t column, int64_t pixels, float* patch, float* sums) {
                add_up(s, images, line, column, pixels, laid_out, bias, patch, sums);
                reader.read(reader.context,
                            {sums, kValue, s.out_channels, line * s.out_width + column, pixels, 0,
                             s.out_channels});
              });
  return kOk;
}

namespace {

// Outputs of a row whose sums are at hand at a time.
constexpr int64_t kSomeOutputs = 64;

// dot(x, first output, outputs, sums) gives sums by lanes.
template <typename Dot>
int linear(const float* x, const float* ratio, const float* bias, int64_t rows, int64_t depth,
           int64_t outputs, float* y, const ParallelFor& parallel, const Dot& dot) {
  const int64_t parts = (outputs + kSomeOutputs - 1) / kSomeOutputs;
  parallel_for(parallel, rows * parts, depth * kSomeOutputs, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const int64_t row = i / parts, first = i % parts * kSomeOutputs;
      const int64_t count = std::min(kSomeOutputs, outputs - first);
      float sums[kSomeOutputs];
      dot(x + row * depth, first, count, sums);
      for (int64_t o = 0; o < count; ++o) {
        y[row * outputs + first + o] = std::fma(sums[o], ratio[first + o], bias[first + o]);
      }
    }
  });
  return kOk;
}

}  // namespace

int linear_deterministic_cpu(const float* x, const float* w, const float* ratio, const float* bias,
                             int64_t rows, int64_t depth, int64_t outputs, float* y,
                             const ParallelFor& parallel) {
  return linear(x, ratio, bias, rows, depth, outputs, y, parallel,
                [=](const float* row, int64_t first, int64_t count, float* sums) {
                  kernels().dot_lanes(row, w + first * depth, depth, count, sums);
                });
}

int linear_bytes_deterministic_cpu(const float* x, const int8_t* w, const float* ratio,
                                   const float* bias, int64_t rows, int64_t depth, int64_t outputs,
                                   float* y, const ParallelFor& parallel) {
  return linear(x, ratio, bias, rows, depth, outputs, y, parallel,
                [=](const float* row, int64_t first, int64_t count, float* sums) {
                  kernels().dot_lanes_bytes(row, w + first * depth, depth, count, sums);
                });
}

}  // namespace micronet
