// Weight launchers against plain loops, however the loop is split.

#include <cmath>

#include "tests/check.h"

namespace micronet {
namespace {

struct Shape {
  int64_t channels, each;
};
constexpr Shape kShapes[] = {{1, 1}, {3, 7}, {8, 8}, {5, 17}, {48, 25}, {13, 65}, {2, 40009}};

void channels_have_their_own_ranges(std::mt19937& random, const Shape& shape, bool masked,
                                    const ParallelFor& parallel) {
  const int64_t numel = shape.channels * shape.each;
  const std::vector<float> w = normals(random, numel);
  const std::vector<uint8_t> bits = bytes(random, bytes_for(numel));
  const uint8_t* mask = masked ? bits.data() : nullptr;
  const size_t channels = static_cast<size_t>(shape.channels);
  std::vector<float> w_hat(w.size());
  std::vector<float> scale(channels), zero(channels), scale2(channels), zero2(channels);
  std::vector<uint8_t> codes(w.size());
  for (const int scheme : {kAffine, kDistillerSymmetric}) {
    const Weight values{w.data(),     mask,         shape.channels, shape.each, 16,
                        w_hat.data(), scale.data(), zero.data(),    nullptr};
    const Weight coded{w.data(),     mask,          shape.channels, shape.each, 16,
                       codes.data(), scale2.data(), zero2.data(),   nullptr};
    CHECK(fake_quant_weights_cpu(&values, 1, kFloat32, scheme, parallel) == kOk);
    CHECK(quantize_per_channel_cpu(coded, kFloat32, scheme, parallel) == kOk);
    CHECK(scale == scale2 && zero == zero2);
    for (int64_t c = 0; c < shape.channels; ++c) {
      const auto value = [&](int64_t i) {
        return !masked || bit(bits, i) ? w[static_cast<size_t>(i)] : 0.0f;
      };
      const int64_t begin = c * shape.each;
      float lo = value(begin), hi = lo;
      for (int64_t i = begin; i < begin + shape.each; ++i) {
        lo = std::fmin(lo, value(i));
        hi = std::fmax(hi, value(i));
      }
      const Quantizer q = make_quantizer(lo, hi, 16, scheme);
      CHECK(same(scale[static_cast<size_t>(c)], q.scale));
      CHECK(same(zero[static_cast<size_t>(c)], q.zero_point));
      for (int64_t i = begin; i < begin + shape.each; ++i) {
        const size_t at = static_cast<size_t>(i);
        const float code = quantize(value(i), q);
        CHECK(same(w_hat[at], dequantize(code, q)));
        CHECK(codes[at] == static_cast<uint8_t>(static_cast<int8_t>(code)));
      }
    }
  }
}

// Codes by learned steps: what has no code is 0, and takes the scale of its channel unless a mask
// prunes it; so does a step that is none.
void learned_steps_show_what_has_no_code(std::mt19937& random, const Shape& shape,
                                         const ParallelFor& parallel) {
  const int64_t numel = shape.channels * shape.each;
  const size_t channels = static_cast<size_t>(shape.channels);
  for (const float hostile : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> w = normals(random, numel), steps(2 * channels, -8.0f);
    std::vector<uint8_t> bits(static_cast<size_t>(bytes_for(numel)), 0xff), codes(w.size());
    std::vector<float> scale(channels), zero(channels);
    std::vector<bool> is_lost(channels);
    for (size_t c = 0; c < channels; ++c) {
      steps[c] = 0.3f;
      const unsigned what = random() % 4;
      const size_t at =
          c * static_cast<size_t>(shape.each) + random() % static_cast<unsigned>(shape.each);
      if (what == 1 || what == 2) w[at] = hostile;
      if (what == 2) bits[at / 8] &= static_cast<uint8_t>(~(1u << (at % 8)));
      if (what == 3) steps[c] = -0.3f;
      is_lost[c] = what == 1 || what == 3;
    }
    const Weight coded{w.data(),     bits.data(),  shape.channels, shape.each,  16,
                       codes.data(), scale.data(), zero.data(),    steps.data()};
    CHECK(quantize_per_channel_cpu(coded, kFloat32, kLearned, parallel) == kOk);
    for (size_t i = 0; i < w.size(); ++i) {
      const size_t c = i / static_cast<size_t>(shape.each);
      CHECK(same(scale[c], is_lost[c] ? NAN : 1.0f / 0.3f) && zero[c] == -8.0f);
      const Quantizer q = learned_quantizer(steps[c], -8.0f, 16);
      const float code = quantize(bit(bits, static_cast<int64_t>(i)) ? w[i] : 0.0f, q);
      CHECK(codes[i] == (code == code ? static_cast<uint8_t>(code) : 0));
    }
  }
}

void gradients_are_masked(std::mt19937& random, const Shape& shape, const ParallelFor& parallel) {
  const int64_t numel = shape.channels * shape.each;
  const std::vector<float> grad = normals(random, numel);
  const std::vector<uint8_t> bits = bytes(random, bytes_for(numel));
  std::vector<float> masked(grad.size()), whole(grad.size());
  const Gradient list[] = {{grad.data(), bits.data(), numel, masked.data()},
                           {grad.data(), nullptr, numel, whole.data()}};
  CHECK(mask_gradients_cpu(list, 2, kFloat32, parallel) == kOk);
  for (int64_t i = 0; i < numel; ++i) {
    const size_t at = static_cast<size_t>(i);
    CHECK(same(whole[at], grad[at]));
    CHECK(same(masked[at], bit(bits, i) ? grad[at] : 0.0f));
  }
}

}  // namespace

void run_tests(std::mt19937& random) {
  on_every_loop([&](const ParallelFor& parallel) {
    for (const Shape& shape : kShapes) {
      channels_have_their_own_ranges(random, shape, false, parallel);
      channels_have_their_own_ranges(random, shape, true, parallel);
      learned_steps_show_what_has_no_code(random, shape, parallel);
      gradients_are_masked(random, shape, parallel);
    }
  });
}

}  // namespace micronet
