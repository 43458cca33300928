// The gradients of depthwise convolutions against loops over their products in the stated order;
// every buffer ends where it must.

#include <cmath>

#include "include/depthwise_gradient.h"
#include "tests/conv_problem.h"

namespace micronet {
namespace {

struct Case {
  ConvShape s;
  std::vector<float> grad, x, w, table;
  std::vector<uint8_t> codes;
  int levels;
};

struct Answer {
  std::vector<float> grad_x, grad_w;
};

Case draw(std::mt19937& random, const ConvShape& s, int levels) {
  const bool halves = levels <= kHalfByteLevels;
  Case c{s,
         normals(random, s.pixels() * s.out_channels),
         {},
         normals(random, s.in_channels * s.taps()),
         normals(random, halves ? kHalfByteLevels : 256),
         bytes(random, packed_bytes(s.in_numel(), halves ? kHalfByteLevels : 256)),
         levels};
  for (int64_t i = 0; i < s.in_numel(); ++i) {
    const size_t at = static_cast<size_t>(i);
    c.x.push_back(c.table[halves ? c.codes[at / 2] >> (i % 2 * 4) & 15 : c.codes[at]]);
  }
  return c;
}

// The column below a tap, or -1 between two.
int64_t reached(int64_t x, int64_t before, int64_t tap, int64_t spread, int64_t stride) {
  const int64_t at = x + before - tap * spread;
  return at >= 0 && at % stride == 0 ? at / stride : -1;
}

Answer expected(const Case& c) {
  const ConvShape& s = c.s;
  Answer a{std::vector<float>(c.x.size()), std::vector<float>(c.w.size())};
  const auto grad_at = [&](int64_t image, int64_t y, int64_t x, int64_t channel) {
    if (x < 0 || x >= s.out_width) return 0.0f;
    return c.grad[static_cast<size_t>(
        ((image * s.out_height + y) * s.out_width + x) * s.in_channels + channel)];
  };
  for (int64_t i = 0; i < s.in_numel(); ++i) {
    const int64_t channel = i % s.in_channels, x = i / s.in_channels % s.width;
    const int64_t y = i / s.in_channels / s.width % s.height,
                  image = i / s.in_channels / s.width / s.height;
    float sum = 0.0f;
    for (int64_t t = 0; t < s.taps(); ++t) {
      const int64_t row = reached(y, s.top, t / s.kernel_width, s.dilation_y, s.stride_y);
      const int64_t column = reached(x, s.left, t % s.kernel_width, s.dilation_x, s.stride_x);
      if (row < 0 || row >= s.out_height) continue;
      const float w = c.w[static_cast<size_t>(channel * s.taps() + t)];
      sum = std::fma(grad_at(image, row, column, channel), w, sum);
    }
    a.grad_x[static_cast<size_t>(i)] = sum;
  }
  for (int64_t i = 0; i < s.in_channels * s.taps(); ++i) {
    const int64_t channel = i / s.taps(), t = i % s.taps();
    double all = 0.0;
    for (int64_t image = 0; image < s.images; ++image) {
      float of_image = 0.0f;
      for (int64_t o = 0; o < s.out_height; ++o) {
        const int64_t y = o * s.stride_y - s.top + t / s.kernel_width * s.dilation_y;
        if (y < 0 || y >= s.height) continue;
        float sum = 0.0f;
        for (int64_t p = 0; p < s.out_width; ++p) {
          const int64_t x = p * s.stride_x - s.left + t % s.kernel_width * s.dilation_x;
          const int64_t pixel = (image * s.height + y) * s.width + x;
          const float value = x >= 0 && x < s.width
                                  ? c.x[static_cast<size_t>(pixel * s.in_channels + channel)]
                                  : 0.0f;
          sum = std::fma(grad_at(image, o, p, channel), value, sum);
        }
        of_image += sum;
      }
      all += static_cast<double>(of_image);
    }
    a.grad_w[static_cast<size_t>(i)] = static_cast<float>(all);
  }
  return a;
}

Answer found(const Case& c, const ImageValues& x, const ParallelFor& parallel) {
  Answer a{std::vector<float>(c.x.size()), std::vector<float>(c.w.size())};
  std::vector<float> workspace(static_cast<size_t>(depthwise_gradient_workspace(c.s)));
  const DepthwiseGradient gradient{c.s,        c.grad.data(),   kFloat32,       x,
                                   c.w.data(), a.grad_x.data(), a.grad_w.data()};
  CHECK(depthwise_gradient_cpu(gradient, workspace.data(), parallel) == kOk);
  return a;
}

void sums_are_in_order(std::mt19937& random, const ConvShape& s, int levels) {
  const Case c = draw(random, s, levels);
  const Answer answer = expected(c);
  const ImageValues values{c.x.data(), nullptr, nullptr, 0};
  const ImageValues codes{nullptr, c.codes.data(), c.table.data(), levels};
  for (const ParallelFor& parallel : kRunners) {
    for (const ImageValues& x : {values, codes}) {
      const Answer ours = found(c, x, parallel);
      CHECK(ours.grad_x == answer.grad_x);
      CHECK(ours.grad_w == answer.grad_w);
    }
  }
}

}  // namespace

void run_tests(std::mt19937& random) {
  const ConvShape shapes[] = {
      shape_of(1, 1, 1, 1, 1, 1, 1, 1),         shape_of(3, 3, 6, 3, 3, 2, 2, 3),
      shape_of(2, 16, 8, 16, 3, 1, 1, 16),      shape_of(1, 8, 14, 8, 5, 1, 2, 8),
      shape_of(2, 40, 9, 40, 5, 2, 1, 40),      shape_of(1, 33, 13, 33, 7, 1, 1, 33),
      shape_of(1, 70, 2, 70, 5, 1, 1, 70),      shape_of(2, 5, 7, 5, 2, 3, 1, 5),
      shape_of(1, 2000, 3, 2000, 3, 1, 1, 2000)};
  on_every_instruction_set([&] {
    for (const ConvShape& shape : shapes) {
      sums_are_in_order(random, shape, 16);
      sums_are_in_order(random, shape, 256);
    }
  });
}

}  // namespace micronet
