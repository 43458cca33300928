// Learned steps against plain loops, the sums in their stated order.

#include <cmath>

#include "tests/check.h"
#include "tests/ordered_sum.h"

namespace micronet {
namespace {

// Learned steps of 16 levels, and what every instruction set and every split has to make of them.
struct Expected {
  int64_t channels, each;
  bool masked;
  std::vector<float> x, grad, step, zero, y, grad_x, grad_step;
  std::vector<uint8_t> bits;

  Expected(std::mt19937& random, int64_t channels, int64_t each, bool masked)
      : channels(channels),
        each(each),
        masked(masked),
        x(normals(random, channels * each)),
        grad(normals(random, channels * each)),
        bits(bytes(random, bytes_for(channels * each))) {
    for (int64_t c = 0; c < channels; ++c) {
      step.push_back(0.05f + 0.01f * static_cast<float>(random() % 30));
      zero.push_back(-static_cast<float>(random() % 16));
      add_channel(c);
    }
  }

  void add_channel(int64_t c) {
    const float scale = 1.0f / step.back(), zero_point = zero.back();
    const Quantizer q = learned_quantizer(step.back(), zero_point, 16);
    std::vector<float> terms;
    for (int64_t i = c * each; i < (c + 1) * each; ++i) {
      const size_t at = static_cast<size_t>(i);
      const bool kept = !masked || bit(bits, i);
      const float v = kept ? x[at] : 0.0f, t = scale * v;
      const float code = quantize(v, q), whole = code + zero_point;
      const bool inside = t > zero_point && t < zero_point + 15.0f;
      y.push_back(dequantize(code, q));
      grad_x.push_back(kept && inside ? grad[at] : 0.0f);
      terms.push_back(grad[at] * (inside ? whole - t : whole));
    }
    grad_step.push_back(ordered_sum(terms) * 0.3f);
  }

  void check(const ParallelFor& parallel) const {
    std::vector<float> found(x.size()), found_x(x.size()), found_step(step.size());
    std::vector<float> workspace(step.size() * static_cast<size_t>(sum_blocks(each)));
    const LearnedStep s{
        x.data(), masked ? bits.data() : nullptr, channels, each, step.data(), zero.data(), 16};
    CHECK(fake_quant_learned_step_cpu(s, kFloat32, found.data(), parallel) == kOk);
    CHECK(fake_quant_learned_step_backward_cpu(s, kFloat32, grad.data(), 0.3f, found_x.data(),
                                               found_step.data(), workspace.data(),
                                               parallel) == kOk);
    CHECK(same(found, y) && same(found_x, grad_x) && same(found_step, grad_step));
  }
};

void values_and_gradients(std::mt19937& random, int64_t channels, int64_t each, bool masked) {
  const Expected expected(random, channels, each, masked);
  on_every_loop([&](const ParallelFor& parallel) { expected.check(parallel); });
}

}  // namespace

void run_tests(std::mt19937& random) {
  for (const bool masked : {false, true}) {
    for (const int64_t numel : kSizes) values_and_gradients(random, 1, numel, masked);
    values_and_gradients(random, 7, 25, masked);
    values_and_gradients(random, 3, 4099, masked);
  }
}

}  // namespace micronet
