// exp, and the activation functions on top of it, once for host and device.
//
// Each fma rounds once, on hardware that has it and on hardware that has not.
#ifndef MICRONET_FUNCTION_H_
#define MICRONET_FUNCTION_H_

#include <cstring>

#include "include/quant.h"

namespace micronet {

enum Function : int { kIdentity = 0, kRelu = 1, kSwish = 2, kSigmoid = 3 };

// 2^n for n in [-126, 127], `shifted` being kShift + n.
MICRONET_HD float power_of_two(float shifted) {
  uint32_t bits;
  std::memcpy(&bits, &shifted, 4);
  bits = (bits + 127u) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return power;
}

// e^x is p * 2^n, `shifted` being kShift + n.
struct Exponential {
  float p, shifted;
};

// For x in [-104, 89] or NaN. The reduced argument is x - n ln 2, ln 2 in two parts; the polynomial
// is Cephes' expf (Moshier).
MICRONET_HD Exponential exponential(float x) {
  const float shifted = x * 1.44269504088896341f + kShift, n = shifted - kShift;
  float r = fmaf(n, -0.693359375f, x);
  r = fmaf(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = fmaf(p, r, 1.3981999507e-3f);
  p = fmaf(p, r, 8.3334519073e-3f);
  p = fmaf(p, r, 4.1665795894e-2f);
  p = fmaf(p, r, 1.6666665459e-1f);
  p = fmaf(p, r, 5.0000001201e-1f);
  return {fmaf(p, r * r, r) + 1.0f, shifted};
}

// 1 + e^x, e^x being rounded before it is added; NaN stays NaN. Below -86 the sum is 1, and above
// 89 infinite. 2^n is applied as twice 2^(n - 1), since n may be 128: neither step rounds.
MICRONET_HD float one_plus_exp(float x) {
  const Exponential e = exponential(clamp_keep_nan(x, -86.0f, 89.0f));
  return fmaf(e.p * power_of_two(e.shifted - 1.0f), 2.0f, 1.0f);
}

MICRONET_HD float sigmoid(float z) { return 1.0f / one_plus_exp(-z); }

// z * sigmoid(z).
MICRONET_HD float swish(float z) { return z / one_plus_exp(-z); }

// Swish falls up to here and rises beyond. On either side two results are in order, whatever was
// rounded, where their arguments are a spacing apart; farther than kSwishFlat from here, and from 0
// than kSwishDense, where they are so many floats apart. tests/cpu/test_function.cpp goes through
// them.
constexpr float kLeastSwishAt = -1.2784645f, kSwishSpacing = 0x1p-10f;
constexpr float kSwishFlat = 0x1p-4f, kSwishDense = 0x1p-12f;
constexpr int kSwishFloats = 64;

// Up to this magnitude of arguments no power in swish leaves the floats.
constexpr float kNearSwish = 80.0f;

template <int kFunction>
MICRONET_HD float activate(float z) {
  if (kFunction == kRelu) return z < 0.0f ? 0.0f : z;
  if (kFunction == kSigmoid) return sigmoid(z);
  return kFunction == kSwish ? swish(z) : z;
}

// The derivative of sigmoid or swish at z, where sigmoid is s.
template <int kFunction>
MICRONET_HD float slope_of(float s, float z) {
  return kFunction == kSigmoid ? s * (1.0f - s) : s * (1.0f + z * (1.0f - s));
}
template <int kFunction>
MICRONET_HD float slope(float z) {
  return slope_of<kFunction>(sigmoid(z), z);
}

// A gradient through `activate`. ReLU chooses, as torch does: an infinity that meets a closed ReLU
// is no NaN, and what comes of a NaN passes.
template <int kFunction>
MICRONET_HD float through(float grad, float z) {
  if (kFunction == kRelu) return z <= 0.0f ? 0.0f : grad;
  return kFunction == kIdentity ? grad : grad * slope<kFunction>(z);
}

}  // namespace micronet

#endif  // MICRONET_FUNCTION_H_
