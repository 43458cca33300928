// Learned steps against plain loops, the sums in their stated order.

#include <cmath>

#include "tests/check.h"
#include "tests/ordered_sum.h"

namespace micronet {
namespace {

void values_and_gradients(std::mt19937& random, int64_t channels, int64_t each, bool masked,
                          const ParallelFor& parallel) {
  const int64_t numel = channels * each;
  std::vector<float> x = normals(random, numel), grad = normals(random, numel);
  const std::vector<uint8_t> bits = bytes(random, bytes_for(numel));
  const size_t count = static_cast<size_t>(channels);
  std::vector<float> step(count), zero(count), y(x.size()), grad_x(x.size()), grad_step(count);
  std::vector<float> workspace(count * static_cast<size_t>(sum_blocks(each)));
  for (size_t c = 0; c < count; ++c) {
    step[c] = 0.05f + 0.01f * static_cast<float>(random() % 30);
    zero[c] = -static_cast<float>(random() % 16);
  }
  const LearnedStep s{
      x.data(), masked ? bits.data() : nullptr, channels, each, step.data(), zero.data(), 16};
  CHECK(fake_quant_learned_step_cpu(s, kFloat32, y.data(), parallel) == kOk);
  CHECK(fake_quant_learned_step_backward_cpu(s, kFloat32, grad.data(), 0.3f, grad_x.data(),
                                             grad_step.data(), workspace.data(), parallel) == kOk);
  for (int64_t c = 0; c < channels; ++c) {
    const size_t channel = static_cast<size_t>(c);
    const float scale = 1.0f / step[channel];
    const Quantizer q = learned_quantizer(step[channel], zero[channel], 16);
    std::vector<float> terms;
    for (int64_t i = c * each; i < (c + 1) * each; ++i) {
      const size_t at = static_cast<size_t>(i);
      const bool kept = !masked || bit(bits, i);
      const float v = kept ? x[at] : 0.0f, t = scale * v;
      const float code = quantize(v, q), whole = code + zero[channel];
      const bool inside = t > zero[channel] && t < zero[channel] + 15.0f;
      CHECK(same(y[at], dequantize(code, q)));
      CHECK(same(grad_x[at], kept && inside ? grad[at] : 0.0f));
      terms.push_back(grad[at] * (inside ? whole - t : whole));
    }
    CHECK(same(grad_step[channel], ordered_sum(terms) * 0.3f));
  }
}

}  // namespace

void run_tests(std::mt19937& random) {
  on_every_loop([&](const ParallelFor& parallel) {
    for (const bool masked : {false, true}) {
      for (const int64_t numel : kSizes) {
        values_and_gradients(random, 1, numel, masked, parallel);
      }
      values_and_gradients(random, 7, 25, masked, parallel);
      values_and_gradients(random, 3, 4099, masked, parallel);
    }
  });
}

}  // namespace micronet
