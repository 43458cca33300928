// The arithmetic itself, against the standard library's rounding and against double precision.

#include <cmath>
#include <limits>

#include "tests/check.h"

namespace micronet {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// All floats near every tie, and a stride through all floats, below the bound of round_small.
void round_small_is_rint() {
  for (int half = -1024; half <= 1024; ++half) {
    const float tie = static_cast<float>(half) / 2;
    for (const float v : {std::nextafter(tie, -kInfinity), tie, std::nextafter(tie, kInfinity)}) {
      CHECK(round_small(v) == std::nearbyint(v));
    }
  }
  const uint32_t bound = word_of(4194304.0f);
  for (uint32_t word = 0; word < bound; word += 997) {
    CHECK(round_small(float_of(word)) == std::nearbyint(float_of(word)));
    CHECK(round_small(-float_of(word)) == std::nearbyint(-float_of(word)));
  }
  CHECK(std::isnan(round_small(kNan)));
}

void clamp_keeps_nan() {
  CHECK(clamp_keep_nan(-1.0f, 0.0f, 15.0f) == 0.0f);
  CHECK(clamp_keep_nan(kInfinity, 0.0f, 15.0f) == 15.0f);
  CHECK(clamp_keep_nan(7.5f, 0.0f, 15.0f) == 7.5f);
  CHECK(std::isnan(clamp_keep_nan(kNan, 0.0f, 15.0f)));
}

void steps_are_positive_with_a_finite_inverse() {
  for (const float step : {0.3f, FLT_MIN, FLT_MAX, 0x1p-127f}) {
    CHECK(scale_of_step(step) == 1.0f / step);
  }
  for (const float step : {0.0f, -0.0f, -0.3f, 0x1p-128f, kInfinity, -kInfinity, kNan}) {
    CHECK(std::isnan(scale_of_step(step)));
    const Quantizer q = learned_quantizer(step, -8.0f, 16);
    for (const float x : {0.0f, 1.0f, -3.0f}) CHECK(std::isnan(dequantize(quantize(x, q), q)));
  }
}

// Rounding first and clamping afterwards, as the definition has it, gives the same code.
void quantize_is_its_definition(std::mt19937& random) {
  for (const int levels : {3, 5, 16, 255, 256}) {
    for (const int scheme : {kAffine, kDistillerAffine, kDistillerSymmetric}) {
      const std::vector<float> ends = normals(random, 2);
      const Quantizer q = make_quantizer(ends[0], ends[1], levels, scheme);
      CHECK(q.lo <= 0.0f && q.hi >= 0.0f && q.zero_point <= 0.0f);
      CHECK(dequantize(quantize(0.0f, q), q) == 0.0f);
      CHECK(is_inside(q.lo, q) && is_inside(q.hi, q));
      CHECK(!is_inside(std::nextafter(q.hi, kInfinity), q) && !is_inside(kNan, q));
      for (const float v : normals(random, 4000)) {
        const float x = 3.0f * v, scaled = q.scale * x;
        const float rounded = std::nearbyint(scaled - q.zero_point);
        CHECK(quantize(x, q) == std::fmin(std::fmax(rounded, q.code_min), q.code_max));
      }
    }
  }
}

void schemes_follow_their_formulas() {
  const Quantizer affine = make_quantizer(-1.0f, 2.0f, 16, kAffine);
  CHECK(affine.scale == 5.0f && affine.zero_point == -5.0f && affine.code_max == 15.0f);
  const Quantizer reciprocal = make_quantizer(-1.0f, 2.0f, 16, kDistillerAffine);
  CHECK(reciprocal.scale == (1.0f / 3.0f) * 15.0f);
  const Quantizer symmetric = make_quantizer(-1.0f, 2.0f, 16, kDistillerSymmetric);
  CHECK(symmetric.scale == 3.5f && symmetric.zero_point == 0.0f && symmetric.lo == -2.0f);
  CHECK(symmetric.code_min == -7.0f && symmetric.code_max == 7.0f);
  const Quantizer empty = make_quantizer(0.0f, -0.0f, 16, kAffine);
  CHECK(empty.scale == 1.0f && same(empty.zero_point, 0.0f));
  for (const int scheme : {kAffine, kDistillerAffine, kDistillerSymmetric}) {
    for (const Quantizer& q :
         {make_quantizer(kNan, 1.0f, 16, scheme), make_quantizer(-1.0f, kNan, 16, scheme)}) {
      CHECK(std::isnan(dequantize(quantize(0.5f, q), q)) && !is_inside(0.0f, q));
    }
  }
}

void power_is_close_to_pow() {
  for (const float base : {0.0f, 0.5f, 0.9f, 0.99f, 0.999f}) {
    for (const int64_t exponent : {1, 2, 3, 10, 1000, 123457}) {
      const double exact = std::pow(static_cast<double>(base), static_cast<double>(exponent));
      // One rounding to float32, and far less in double before it.
      const float nearest = static_cast<float>(exact);
      CHECK(std::abs(static_cast<double>(power(base, exponent)) - exact) <=
            std::nextafter(nearest, kInfinity) - static_cast<double>(nearest));
    }
  }
  CHECK(power(0.9f, 0) == 1.0f);
}

}  // namespace

void run_tests(std::mt19937& random) {
  round_small_is_rint();
  clamp_keeps_nan();
  steps_are_positive_with_a_finite_inverse();
  quantize_is_its_definition(random);
  schemes_follow_their_formulas();
  power_is_close_to_pow();
}

}  // namespace micronet
