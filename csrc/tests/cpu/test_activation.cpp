// Activation launchers against plain loops, however the loop is split.

#include <cmath>
#include <limits>

#include "tests/check.h"

namespace micronet {
namespace {

void fake_quant_is_element_by_element(std::mt19937& random, int64_t numel,
                                      const ParallelFor& parallel) {
  std::vector<float> x = normals(random, numel), y(x.size());
  const std::vector<float> range = normals(random, 2);
  std::vector<uint8_t> inside(static_cast<size_t>(bytes_for(numel)), 0xff);
  if (numel > 0) x[x.size() / 2] = std::numeric_limits<float>::quiet_NaN();
  for (const int scheme : {kAffine, kDistillerAffine, kDistillerSymmetric}) {
    CHECK(fake_quant_per_tensor_cpu(x.data(), kFloat32, numel, range.data(), 16, scheme, y.data(),
                                    inside.data(), parallel) == kOk);
    const Quantizer q = make_quantizer(range[0], range[1], 16, scheme);
    for (int64_t i = 0; i < numel; ++i) {
      const size_t at = static_cast<size_t>(i);
      CHECK(same(y[at], dequantize(quantize(x[at], q), q)));
      CHECK(bit(inside, i) == is_inside(x[at], q));
    }
    for (int64_t i = numel; i < 8 * bytes_for(numel); ++i) CHECK(!bit(inside, i));
  }
}

void range_follows_the_extremes(std::mt19937& random, int64_t numel, const ParallelFor& parallel) {
  float ema[2] = {0, 0}, range[2], expected[2] = {0, 0};
  int64_t step = 0;
  if (numel == 0) {
    CHECK(update_range_cpu(nullptr, kFloat32, 0, 0.9f, ema, range, &step, parallel) == kNoElements);
    CHECK(step == 0);
    return;
  }
  for (int64_t t = 1; t <= 3; ++t) {
    const std::vector<float> x = normals(random, numel);
    float extremes[2] = {x[0], x[0]};
    for (const float v : x) {
      extremes[0] = std::fmin(extremes[0], v);
      extremes[1] = std::fmax(extremes[1], v);
    }
    CHECK(update_range_cpu(x.data(), kFloat32, numel, 0.9f, ema, range, &step, parallel) == kOk);
    CHECK(step == t);
    for (int side = 0; side < 2; ++side) {
      expected[side] = move_average(expected[side], extremes[side], 0.9f);
      CHECK(same(ema[side], expected[side]));
      CHECK(same(range[side], correct_bias(expected[side], 0.9f, t)));
    }
  }
  std::vector<float> x = normals(random, numel);
  x[random() % x.size()] = std::numeric_limits<float>::quiet_NaN();
  CHECK(update_range_cpu(x.data(), kFloat32, numel, 0.9f, ema, range, &step, parallel) == kOk);
  CHECK(std::isnan(range[0]) && std::isnan(range[1]) && std::isnan(ema[0]) && std::isnan(ema[1]));
}

void codes_are_the_values(std::mt19937& random, int64_t numel, const ParallelFor& parallel) {
  if (numel == 0) return;
  std::vector<float> x = normals(random, numel), y(x.size()), decoded(x.size());
  const float range[2] = {-1.25f, 2.0f};
  std::vector<uint8_t> inside(static_cast<size_t>(bytes_for(numel))), again(inside.size());
  float extremes[2], observed[2];
  const int64_t step = 1;
  for (const int levels : {2, 5, 16, 17, 256}) {
    std::vector<uint8_t> codes(static_cast<size_t>(code_bytes(numel, levels)), 0xff);
    CHECK(fake_quant_per_tensor_observed_cpu(x.data(), kFloat32, numel, range, &step, levels,
                                             kAffine, y.data(), inside.data(), observed,
                                             parallel) == kOk);
    CHECK(quantize_per_tensor_cpu(x.data(), kFloat32, numel, range, levels, kAffine, codes.data(),
                                  again.data(), extremes, parallel) == kOk);
    CHECK(dequantize_per_tensor_cpu(codes.data(), numel, range, levels, kAffine, decoded.data(),
                                    parallel) == kOk);
    CHECK(inside == again && extremes[0] == observed[0] && extremes[1] == observed[1]);
    for (size_t i = 0; i < x.size(); ++i) {
      CHECK(same(y[i], decoded[i]));
      CHECK(x[i] >= extremes[0] && x[i] <= extremes[1]);
    }
    if (are_half_bytes(levels) && numel % 2 != 0) CHECK(codes.back() < 16);
  }
}

}  // namespace

void run_tests(std::mt19937& random) {
  on_every_size([&](int64_t numel, const ParallelFor& parallel) {
    fake_quant_is_element_by_element(random, numel, parallel);
    range_follows_the_extremes(random, numel, parallel);
    codes_are_the_values(random, numel, parallel);
  });
}

}  // namespace micronet
