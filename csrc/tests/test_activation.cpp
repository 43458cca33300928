// Activation launchers against plain loops, however the loop is split.

#include <cmath>
#include <limits>

#include "check.h"

namespace micronet {
namespace {

void fake_quant_is_element_by_element(std::mt19937& random, int64_t numel,
                                      const ParallelFor& parallel) {
  std::vector<float> x = normals(random, numel), y(x.size());
  const std::vector<float> range = normals(random, 2);
  std::vector<uint8_t> inside(static_cast<size_t>(bytes_for(numel)), 0xff);
  if (numel > 0) x[x.size() / 2] = std::numeric_limits<float>::quiet_NaN();
  for (const int scheme : {kAffine, kDistillerAffine, kDistillerSymmetric}) {
    CHECK(fake_quant_per_tensor_cpu(x.data(), numel, range.data(), 16, scheme, y.data(),
                                    inside.data(), parallel) == kOk);
    const Quantiser q = make_quantiser(range[0], range[1], 16, scheme);
    for (int64_t i = 0; i < numel; ++i) {
      const size_t at = static_cast<size_t>(i);
      CHECK(same(y[at], dequantise(quantise(x[at], q), q)));
      CHECK(bit(inside, i) == is_inside(x[at], q));
    }
    for (int64_t i = numel; i < 8 * bytes_for(numel); ++i) CHECK(!bit(inside, i));
  }
}

void range_follows_the_extremes(std::mt19937& random, int64_t numel, const ParallelFor& parallel) {
  float ema[2] = {0, 0}, range[2], expected[2] = {0, 0};
  int64_t step = 0;
  if (numel == 0) {
    CHECK(update_range_cpu(nullptr, 0, 0.9f, ema, range, &step, parallel) == kNoElements);
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
    CHECK(update_range_cpu(x.data(), numel, 0.9f, ema, range, &step, parallel) == kOk);
    CHECK(step == t);
    for (int side = 0; side < 2; ++side) {
      expected[side] = move_average(expected[side], extremes[side], 0.9f);
      CHECK(same(ema[side], expected[side]));
      CHECK(same(range[side], correct_bias(expected[side], 0.9f, t)));
    }
  }
  std::vector<float> x = normals(random, numel);
  x[random() % x.size()] = std::numeric_limits<float>::quiet_NaN();
  CHECK(update_range_cpu(x.data(), numel, 0.9f, ema, range, &step, parallel) == kOk);
  CHECK(std::isnan(range[0]) && std::isnan(range[1]) && std::isnan(ema[0]) && std::isnan(ema[1]));
}

}  // namespace
}  // namespace micronet

int main(int argc, char** argv) {
  std::mt19937 random = micronet::new_random(argc, argv);
  for (const micronet::ParallelFor& parallel : micronet::kRunners) {
    for (const int64_t numel : micronet::kSizes) {
      micronet::fake_quant_is_element_by_element(random, numel, parallel);
      micronet::range_follows_the_extremes(random, numel, parallel);
    }
  }
}
