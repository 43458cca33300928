// From elements of an activation to codes and values.
#ifndef MICRONET_CUDA_ROUNDING_H_
#define MICRONET_CUDA_ROUNDING_H_

#include <cmath>

#include "cuda/vector.h"

namespace micronet {

// The values of few codes, one a bank of shared memory, so that no look-up waits for another. The
// last is that of the code NaN.
constexpr int kTableSize = 32;
constexpr int kMostLookedUp = kTableSize - 1;

// Fills table [kTableSize] in shared memory. Every thread must call.
__device__ inline void fill_table(const Quantizer& q, float* table) {
  if (threadIdx.x < kTableSize) {
    const float code = q.code_min + static_cast<float>(threadIdx.x);
    table[threadIdx.x] = code <= q.code_max ? dequantize(code, q) : NAN;
  }
  __syncthreads();
}

// A whole code less code_min, as an integer; a large one where the code is NaN. The sum lies in
// [2^23, 2^24), where the last bit of a float is worth one.
__device__ __forceinline__ unsigned slot_of(float code, const Quantizer& q) {
  constexpr float kShift = 8388608.0f;  // 2^23
  return __float_as_uint(code + (kShift - q.code_min)) - 0x4b000000u;
}

// The value of x by division, or from a table.
template <bool kLookUp>
__device__ __forceinline__ float value_of(float x, const Quantizer& q, const float* table) {
  const float code = quantize(x, q);
  if (!kLookUp) return dequantize(code, q);
  const unsigned slot = slot_of(code, q);
  return table[slot < kMostLookedUp ? slot : kMostLookedUp];
}

// What a gradient to the value of x is multiplied by for a learned step.
__device__ __forceinline__ float learned_factor(float x, const Quantizer& q) {
  const float whole = quantize(x, q) + q.zero_point;
  return is_inside(x, q) ? whole - q.scale * x : whole;
}

// Bit e: whether v[e] lies in the range.
__device__ __forceinline__ unsigned inside_of(const float (&v)[kEach], const Quantizer& q) {
  unsigned flags = 0;
#pragma unroll
  for (int e = 0; e < kEach; ++e) flags |= static_cast<unsigned>(is_inside(v[e], q)) << e;
  return flags;
}

}  // namespace micronet

#endif  // MICRONET_CUDA_ROUNDING_H_
