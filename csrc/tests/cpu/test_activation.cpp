// Activation launchers against plain loops, however the loop is split. What is expected of a size
// is the same for all instruction sets and splits.

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/check.h"

namespace micronet {
namespace {

constexpr int kSchemes[] = {kAffine, kDistillerAffine, kDistillerSymmetric};

// Bits of which those beyond the last element are 0.
std::vector<uint8_t> bits_of(const std::vector<bool>& flags) {
  std::vector<uint8_t> bits(static_cast<size_t>(bytes_for(static_cast<int64_t>(flags.size()))));
  for (size_t i = 0; i < flags.size(); ++i) {
    bits[i / 8] = static_cast<uint8_t>(bits[i / 8] | flags[i] << i % 8);
  }
  return bits;
}

struct FakeQuant {
  std::vector<float> x, range, y[3];
  std::vector<uint8_t> inside[3];

  FakeQuant(std::mt19937& random, int64_t numel)
      : x(normals(random, numel)), range(normals(random, 2)) {
    if (numel > 0) x[x.size() / 2] = std::numeric_limits<float>::quiet_NaN();
    for (size_t s = 0; s < 3; ++s) {
      const Quantizer q = make_quantizer(range[0], range[1], 16, kSchemes[s]);
      std::vector<bool> flags;
      for (const float v : x) {
        y[s].push_back(dequantize(quantize(v, q), q));
        flags.push_back(is_inside(v, q));
      }
      inside[s] = bits_of(flags);
    }
  }

  void check(const ParallelFor& parallel) const {
    const int64_t numel = static_cast<int64_t>(x.size());
    for (size_t s = 0; s < 3; ++s) {
      std::vector<float> found(x.size());
      std::vector<uint8_t> bits(inside[s].size(), 0xff);
      CHECK(fake_quant_per_tensor_cpu(x.data(), kFloat32, numel, range.data(), 16, kSchemes[s],
                                      found.data(), bits.data(), parallel) == kOk);
      CHECK(same(found, y[s]));
      CHECK(bits == inside[s]);
    }
  }
};

void an_empty_range_is_refused(const ParallelFor& parallel) {
  float ema[2] = {0, 0}, range[2];
  int64_t step = 0;
  CHECK(update_range_cpu(nullptr, kFloat32, 0, 0.9f, ema, range, &step, parallel) == kNoElements);
  CHECK(step == 0);
}

// Three updates, and one with a NaN.
struct Updates {
  std::vector<float> x[4];
  float ema[3][2], range[3][2];

  Updates(std::mt19937& random, int64_t numel) {
    float before[2] = {0, 0};
    for (int t = 0; t < 3; ++t) {
      x[t] = normals(random, numel);
      const auto ends = std::minmax_element(x[t].begin(), x[t].end());
      const float extremes[2] = {*ends.first, *ends.second};
      for (int side = 0; side < 2; ++side) {
        before[side] = ema[t][side] = move_average(before[side], extremes[side], 0.9f);
        range[t][side] = correct_bias(ema[t][side], 0.9f, t + 1);
      }
    }
    x[3] = normals(random, numel);
    x[3][random() % x[3].size()] = std::numeric_limits<float>::quiet_NaN();
  }

  void check(const ParallelFor& parallel) const {
    const int64_t numel = static_cast<int64_t>(x[0].size());
    float found[2] = {0, 0}, ends[2];
    int64_t step = 0;
    for (int t = 0; t < 4; ++t) {
      CHECK(update_range_cpu(x[t].data(), kFloat32, numel, 0.9f, found, ends, &step, parallel) ==
            kOk);
      CHECK(step == t + 1);
      for (int side = 0; side < 2; ++side) {
        CHECK(t == 3 ? std::isnan(found[side]) && std::isnan(ends[side])
                     : same(found[side], ema[t][side]) && same(ends[side], range[t][side]));
      }
    }
  }
};

void codes_are_the_values(const std::vector<float>& x, const float* ends,
                          const ParallelFor& parallel) {
  const int64_t numel = static_cast<int64_t>(x.size());
  std::vector<float> y(x.size()), decoded(x.size());
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
    CHECK(inside == again && same(y, decoded));
    for (int side = 0; side < 2; ++side) {
      CHECK(extremes[side] == ends[side] && observed[side] == ends[side]);
    }
    if (are_half_bytes(levels) && numel % 2 != 0) CHECK(codes.back() < 16);
  }
}

}  // namespace

void run_tests(std::mt19937& random) {
  on_every_loop(an_empty_range_is_refused);
  for (const int64_t numel : kSizes) {
    const FakeQuant rounded(random, numel);
    on_every_loop([&](const ParallelFor& parallel) { rounded.check(parallel); });
    if (numel == 0) continue;
    const Updates updates(random, numel);
    const std::vector<float> x = normals(random, numel);
    const auto ends = std::minmax_element(x.begin(), x.end());
    const float extremes[2] = {*ends.first, *ends.second};
    on_every_loop([&](const ParallelFor& parallel) {
      updates.check(parallel);
      codes_are_the_values(x, extremes, parallel);
    });
  }
}

}  // namespace micronet
