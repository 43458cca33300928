// Rows of codes as sums of a convolution take them, the sums of rows, and the largest of values.

#include <limits>

#include "cpu/code_rows.h"
#include "cpu/kernels.h"
#include "tests/check.h"

namespace micronet {
namespace {

std::vector<uint8_t> bytes(std::mt19937& random, int64_t count) {
  std::vector<uint8_t> drawn(static_cast<size_t>(count));
  for (uint8_t& byte : drawn) byte = static_cast<uint8_t>(random());
  return drawn;
}

int64_t draw(std::mt19937& random, int64_t least, int64_t most) {
  return least + static_cast<int64_t>(random() % static_cast<uint64_t>(most - least + 1));
}

// Windows that lie in the image, across its border, and wholly outside of it.
ConvShape draw_shape(std::mt19937& random) {
  ConvShape s{};
  s.images = draw(random, 1, 2);
  s.groups = draw(random, 0, 2) == 0 ? 2 : 1;
  s.in_channels = s.groups * draw(random, 1, draw(random, 0, 3) == 0 ? 70 : 9);
  s.out_channels = s.groups;
  s.height = draw(random, 1, 6), s.width = draw(random, 1, 11);
  s.kernel_height = draw(random, 1, 4), s.kernel_width = draw(random, 1, 7);
  s.stride_y = draw(random, 1, 3), s.stride_x = draw(random, 1, 3);
  s.top = draw(random, 0, 4), s.left = draw(random, 0, 12);
  s.dilation_y = draw(random, 1, 2), s.dilation_x = draw(random, 0, 2) == 0 ? 2 : 1;
  s.out_height = draw(random, 1, 5), s.out_width = draw(random, 1, 12);
  return s;
}

uint8_t code_at(const ConvShape& s, const std::vector<uint8_t>& codes, uint8_t outside,
                int64_t pixel, int64_t group, int64_t k) {
  const int64_t channel = k % s.group_channels(), tap = k / s.group_channels();
  const int64_t row = pixel / s.out_width, image = row / s.out_height;
  const int64_t y = row % s.out_height * s.stride_y - s.top + tap / s.kernel_width * s.dilation_y;
  const int64_t x = pixel % s.out_width * s.stride_x - s.left + tap % s.kernel_width * s.dilation_x;
  if (y < 0 || y >= s.height || x < 0 || x >= s.width) return outside;
  const int64_t at = ((image * s.height + y) * s.width + x) * s.in_channels;
  return codes[static_cast<size_t>(at + group * s.group_channels() + channel)];
}

// In runs of a few pixels, of which some overlap and some leave pixels out.
void rows_are_those_of_the_image(std::mt19937& random, const ConvShape& s) {
  const std::vector<uint8_t> codes = bytes(random, s.in_numel());
  const uint8_t outside = static_cast<uint8_t>(random()), untouched = 77;
  const int64_t stride = s.depth() + draw(random, 0, 3);
  CodeRows rows(s, codes.data(), outside);
  for (int64_t first = 0; first < s.pixels(); first += draw(random, 1, 9)) {
    const int64_t count = std::min(draw(random, 1, 9), s.pixels() - first);
    const int64_t group = draw(random, 0, s.groups - 1);
    std::vector<uint8_t> found(static_cast<size_t>(count * stride), untouched);
    rows.gather(first, count, group, found.data(), stride);
    for (int64_t i = 0; i < count * stride; ++i) {
      const int64_t k = i % stride, pixel = first + i / stride;
      const uint8_t expected =
          k < s.depth() ? code_at(s, codes, outside, pixel, group, k) : untouched;
      CHECK(found[static_cast<size_t>(i)] == expected);
    }
  }
}

void sums_are_those_of_a_loop(std::mt19937& random, int64_t depth) {
  const int64_t pixels = 3, stride = depth + draw(random, 0, 5);
  // No byte more than there has to be, for the sanitizer to see what reads one.
  std::vector<uint8_t> codes = bytes(random, (pixels - 1) * stride + depth);
  if (random() % 2 == 0) std::fill(codes.begin(), codes.end(), uint8_t{255});
  std::vector<int32_t> sums(static_cast<size_t>(pixels), -1);
  kernels().sum_codes(codes.data(), stride, pixels, depth, sums.data());
  for (int64_t p = 0; p < pixels; ++p) {
    int32_t expected = 0;
    for (int64_t k = 0; k < depth; ++k) expected += codes[static_cast<size_t>(p * stride + k)];
    CHECK(sums[static_cast<size_t>(p)] == expected);
  }
}

// NaN is the largest, and the first of zeros stays.
void the_larger_is_that_of_torch(std::mt19937& random, int64_t count) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float some[] = {0.0f, -0.0f, 1.5f, -1.5f, INFINITY, -INFINITY, nan, 1e-40f};
  std::vector<float> x, most;
  for (int64_t i = 0; i < count; ++i) {
    x.push_back(some[random() % 8]), most.push_back(some[random() % 8]);
  }
  std::vector<float> found = most;
  kernels().widen(x.data(), count, found.data());
  for (size_t i = 0; i < x.size(); ++i) {
    const bool wins = x[i] > most[i] || x[i] != x[i];
    CHECK(same(found[i], wins ? x[i] : most[i]));
  }
}

}  // namespace

void run_tests(std::mt19937& random) {
  for (int round = 0; round < 600; ++round) rows_are_those_of_the_image(random, draw_shape(random));
  on_every_instruction_set([&] {
    for (int64_t depth = 1; depth <= 200; ++depth) sums_are_those_of_a_loop(random, depth);
    for (const int64_t count : {1, 15, 16, 17, 64, 203}) the_larger_is_that_of_torch(random, count);
  });
}

}  // namespace micronet
