// The arithmetic of quantization, once for host and device; everything else calls it.
//
// All values are float32 and every operation rounds to nearest even. No multiply-add may be
// contracted: the host is compiled with -ffp-contract=off, the device with --fmad=false.
#ifndef MICRONET_QUANT_H_
#define MICRONET_QUANT_H_

#include <cfloat>
#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define MICRONET_HD __host__ __device__ __forceinline__
#define MICRONET_HD_MEMBER __host__ __device__
#else
// Internal linkage: several translation units are compiled for more than the baseline machine, and
// none of their copies may serve the others.
#define MICRONET_HD static inline
#define MICRONET_HD_MEMBER
static_assert(FLT_EVAL_METHOD == 0, "float32 operations must not keep extra precision");
#endif

namespace micronet {

// Which rule turns two numbers into a quantizer: the ends of a range, or the step and the zero
// point where the step is learned.
enum Scheme : int {
  kAffine = 0,
  kDistillerAffine = 1,
  kDistillerSymmetric = 2,
  kSymmetric = 3,
  kLearned = 4
};

// A range widened to hold 0, and what follows from it. Codes are whole numbers in
// [code_min, code_max]; the value of a code is (code + zero_point) / scale. A gradient passes from
// lo to hi, or where the step is learned strictly between the lowest and the highest integer.
struct Quantizer {
  float lo;
  float hi;
  float scale;
  float zero_point;
  float code_min;
  float code_max;
  bool is_learned;
};

constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: floats about it are the whole numbers

// Rounds half to even. Exact for |v| < 2^22: the sum lies in [2^23, 2^24), where floats are the
// whole numbers, and the subtraction has no error. Unlike rint it is two plain additions on every
// x86-64 and on devices, whose own conversions are eight times slower, and it keeps NaN.
MICRONET_HD float round_small(float v) { return (v + kShift) - kShift; }

// NaN goes through both comparisons unchanged.
MICRONET_HD float clamp_keep_nan(float v, float least, float most) {
  v = v < least ? least : v;
  return v > most ? most : v;
}

// The scale of a learned step. An optimizer may take a step to where it is none: not positive, or
// without a finite inverse. Then every value is NaN.
MICRONET_HD float scale_of_step(float step) {
  const float inverse = 1.0f / step;
  return inverse > 0.0f && inverse <= FLT_MAX ? inverse : NAN;
}

// The quantizer of a learned step and its zero point, a whole number.
MICRONET_HD Quantizer learned_quantizer(float step, float zero_point, int levels) {
  const float n = static_cast<float>(levels - 1), zero = zero_point + 0.0f;
  return {zero, zero + n, scale_of_step(step), zero, 0.0f, n, true};
}

// The quantizer of `levels` levels for [lo, hi]; a NaN at either end makes every value NaN.
// Adding 0 turns a negative zero into a positive one.
MICRONET_HD Quantizer make_quantizer(float lo, float hi, int levels, int scheme) {
  if (scheme == kLearned) return learned_quantizer(lo, hi, levels);
  const bool symmetric = scheme == kDistillerSymmetric || scheme == kSymmetric;
  const float n = static_cast<float>(symmetric ? (levels - 1) / 2 : levels - 1);
  const float nan = (lo != lo || hi != hi) ? lo + hi : 0.0f;
  Quantizer q;
  float width;
  if (symmetric) {
    const float a = fabsf(lo), b = fabsf(hi);
    width = (a > b ? a : b) + nan;
    q.lo = -width;
    q.hi = width;
  } else {
    q.lo = (lo < 0.0f ? lo : 0.0f) + nan;
    q.hi = (hi > 0.0f ? hi : 0.0f) + nan;
    width = q.hi - q.lo;
  }
  width = width == 0.0f ? n : width;
  // The Distiller rules multiply by a rounded reciprocal, which may differ in the last bit.
  const bool divides = scheme == kAffine || scheme == kSymmetric;
  q.scale = divides ? n / width : (1.0f / width) * n;
  q.zero_point = symmetric ? 0.0f : rintf(q.scale * q.lo) + 0.0f;
  q.code_min = symmetric ? -n : 0.0f;
  q.code_max = n;
  q.is_learned = false;
  return q;
}

// The code of x, a whole number, or NaN where x is not finite: x * 0 is 0 for all else. Clamping
// first gives the same as rounding first, since the ends are whole numbers, and keeps the argument
// of round_small small.
MICRONET_HD float quantize(float x, const Quantizer& q) {
  const float t = clamp_keep_nan(q.scale * x - q.zero_point, q.code_min, q.code_max);
  return round_small(t) + x * 0.0f;
}

// The value of a code.
MICRONET_HD float dequantize(float code, const Quantizer& q) {
  return (code + q.zero_point) / q.scale;
}

// Where a gradient passes. The ends of a learned quantizer are integers.
MICRONET_HD bool is_inside(float x, const Quantizer& q) {
  if (!q.is_learned) return x >= q.lo && x <= q.hi;
  const float t = q.scale * x;
  return t > q.lo && t < q.hi;
}

// base^exponent by repeated squaring in double precision, rounded once to float32.
MICRONET_HD float power(float base, int64_t exponent) {
  double square = base, result = 1.0;
  for (; exponent != 0; exponent >>= 1, square *= square) {
    if (exponent & 1) result *= square;
  }
  return static_cast<float>(result);
}

// One step of the moving average of an extreme; minus zero counts as zero.
MICRONET_HD float move_average(float average, float extreme, float decay) {
  const float kept = decay * average, added = (1.0f - decay) * (extreme + 0.0f);
  return kept + added;
}

// Divides out the weight that `step` averages from zero have not yet gathered.
MICRONET_HD float correct_bias(float average, float decay, int64_t step) {
  return average / (1.0f - power(decay, step));
}

}  // namespace micronet

#endif  // MICRONET_QUANT_H_
