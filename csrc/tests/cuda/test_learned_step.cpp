// Learned steps by CUDA kernels that run on the host, against plain loops, the sums in their stated
// order.

#include "tests/cuda/inputs.h"
#include "tests/ordered_sum.h"

namespace micronet {
namespace {

struct Trial {
  DType type;
  int64_t channels, each;
  int levels;
  Elements x, grad, y, grad_x;
  bool masked;
  std::vector<uint8_t> bits;
  std::vector<float> step, zero_point, grad_step, partial;

  Trial(std::mt19937& random, DType type, int64_t channels, int64_t each, int skip, Kind kind)
      : type(type),
        channels(channels),
        each(each),
        levels(kLevels[random() % 4]),
        x(inputs(random, type, channels * each, skip, kind)),
        grad(inputs(random, type, channels * each, skip, kind)),
        y(type, channels * each, skip),
        grad_x(type, channels * each, skip),
        masked(random() % 2 == 0),
        bits(bytes(random, bytes_for(channels * each))),
        grad_step(static_cast<size_t>(channels), 7.0f),
        partial(static_cast<size_t>(channels * sum_blocks(each) * 2), 7.0f) {
    for (int64_t c = 0; c < channels; ++c) {
      const bool odd = random() % 8 == 0;
      step.push_back(odd ? chosen(random, {0.0f, 1e-41f, -0.5f, 3e38f, NAN})
                         : 0.05f + 0.01f * static_cast<float>(random() % 30));
      const int most = levels < 16 ? levels : 16;
      zero_point.push_back(-static_cast<float>(random() % static_cast<unsigned>(most)));
    }
  }

  LearnedStep learned() {
    return {
        x.data(), masked ? bits.data() : nullptr, channels, each, step.data(), zero_point.data(),
        levels};
  }

  // Calls test(element, kept, q) for the elements of a channel.
  template <typename Test>
  void for_channel(int64_t c, const Test& test) const {
    const size_t at = static_cast<size_t>(c);
    const Quantizer q = learned_quantizer(step[at], zero_point[at], levels);
    for (int64_t i = c * each; i < (c + 1) * each; ++i) test(i, !masked || bit(bits, i), q);
  }
};

void rounds_to_the_step(Trial t) {
  CHECK(fake_quant_learned_step_cuda(t.learned(), t.type, t.y.data(), nullptr) == kOk);
  for (int64_t c = 0; c < t.channels; ++c) {
    t.for_channel(c, [&](int64_t i, bool kept, const Quantizer& q) {
      const float code = quantize(kept ? t.x[i] : 0.0f, q);
      CHECK(same(t.y[i], rounded_to(t.type, dequantize(code, q))));
    });
  }
}

void sums_in_the_stated_order(Trial t) {
  constexpr float kScale = 0.3f;
  CHECK(fake_quant_learned_step_backward_cuda(t.learned(), t.type, t.grad.data(), kScale,
                                              t.grad_x.data(), t.grad_step.data(), t.partial.data(),
                                              nullptr) == kOk);
  for (int64_t c = 0; c < t.channels; ++c) {
    std::vector<float> terms;
    terms.reserve(static_cast<size_t>(t.each));
    t.for_channel(c, [&](int64_t i, bool kept, const Quantizer& q) {
      const float v = kept ? t.x[i] : 0.0f, scaled = q.scale * v;
      const float whole = quantize(v, q) + q.zero_point;
      const bool inside = scaled > q.zero_point && scaled < q.zero_point + q.code_max;
      CHECK(same(t.grad_x[i], kept && inside ? t.grad[i] : 0.0f));
      terms.push_back(t.grad[i] * (inside ? whole - scaled : whole));
    });
    CHECK(same(t.grad_step[static_cast<size_t>(c)], ordered_sum(terms) * kScale));
  }
}

void on_shape(std::mt19937& random, DType type, int64_t channels, int64_t each, int skip) {
  for (const Kind kind : {kExtreme, kHostile}) {
    rounds_to_the_step(Trial(random, type, channels, each, skip, kind));
    sums_in_the_stated_order(Trial(random, type, channels, each, skip, kind));
  }
}

}  // namespace

void run_tests(std::mt19937& random) {
  on_all_edges([&](DType type, int64_t numel, int skip) {
    on_shape(random, type, 1, numel, skip);
    if (numel < 300) on_shape(random, type, 5, numel, skip);
  });
  for (const DType type : kTypes) {
    on_shape(random, type, 3, 4099, 0);
    on_shape(random, type, 2, 8192, 0);
    on_shape(random, type, 0, 9, 0);
  }
  // More rows than thread blocks.
  rounds_to_the_step(Trial(random, kFloat32, 4099, 40, 0, kExtreme));
  // As many blocks of a row as one more level of sums needs.
  sums_in_the_stated_order(Trial(random, kFloat16, 1, kSumBlock * kSumBlock + 5, 0, kUsual));
}

}  // namespace micronet
