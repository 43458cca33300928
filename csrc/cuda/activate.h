// The activation functions of several elements at a time: the same bits as one by one, in fewer
// instructions. Dividing has a rare case that an element alone would have to branch for; several
// branch once.
#ifndef MICRONET_CUDA_ACTIVATE_H_
#define MICRONET_CUDA_ACTIVATE_H_

#include "cuda/vector.h"
#include "include/function.h"

namespace micronet {

// Within it 1 + e^-z lies in [1, 2^100], and neither 2^n nor a quotient leaves the normal numbers.
constexpr float kPlainRange = 69.0f;

template <int kCount>
__device__ __forceinline__ bool all_plain(const float (&z)[kCount]) {
  bool plain = true;
#pragma unroll
  for (int e = 0; e < kCount; ++e) plain = plain && fabsf(z[e]) <= kPlainRange;
  return plain;
}

// 1 / b for b in [1, 2^100], within an ulp.
__device__ __forceinline__ float nearly_reciprocal(float b) {
#ifdef __CUDACC__
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(b));
  return r;
#else
  return 1.0f / b;
#endif
}

// 1 + e^-z, to divide by.
struct Denominator {
  float value, reciprocal;

  __device__ __forceinline__ explicit Denominator(float z) {
    const Exponential e = exponential(-z);
    value = 1.0f + e.p * power_of_two(e.shifted);
    const float r = nearly_reciprocal(value);
    reciprocal = fmaf(r, fmaf(-value, r, 1.0f), r);
  }

  // a / value, rounded once. These are the steps of the compiler's own division where its check
  // of the operands lets it take them.
  __device__ __forceinline__ float under(float a) const {
    const float q = a * reciprocal;
    return fmaf(reciprocal, fmaf(-value, q, a), q);
  }
};

template <int kFunction>
constexpr bool kIsSmooth = kFunction == kSwish || kFunction == kSigmoid;

template <int kFunction, int kCount>
__device__ __forceinline__ void activate(float (&v)[kCount]) {
  if (kIsSmooth<kFunction> && all_plain(v)) {
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      v[e] = Denominator(v[e]).under(kFunction == kSwish ? v[e] : 1.0f);
    }
    return;
  }
#pragma unroll
  for (int e = 0; e < kCount; ++e) v[e] = activate<kFunction>(v[e]);
}

// Of a smooth function of z: its values and slopes.
template <int kFunction, int kCount>
__device__ __forceinline__ void activate(const float (&z)[kCount], float (&a)[kCount],
                                         float (&slopes)[kCount]) {
  if (all_plain(z)) {
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      const Denominator d(z[e]);
      const float s = d.under(1.0f);
      a[e] = kFunction == kSwish ? d.under(z[e]) : s;
      slopes[e] = slope_of<kFunction>(s, z[e]);
    }
    return;
  }
#pragma unroll
  for (int e = 0; e < kCount; ++e) {
    a[e] = activate<kFunction>(z[e]);
    slopes[e] = slope<kFunction>(z[e]);
  }
}

}  // namespace micronet

#endif  // MICRONET_CUDA_ACTIVATE_H_
