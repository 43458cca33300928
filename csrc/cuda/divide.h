// Division by a number that is known at launch: a multiplication and a shift.
#ifndef MICRONET_CUDA_DIVIDE_H_
#define MICRONET_CUDA_DIVIDE_H_

#include <cstdint>

#include "cuda/launch.h"

namespace micronet {

// Exact for numbers below 2^31. With s = ceil(log2 d) the multiplier is that of the reciprocal's
// 33 bits 2^32 + m, rounded up (Granlund and Montgomery, 1994).
struct Divisor {
  unsigned value, multiplier, shift;

  explicit Divisor(int64_t d) : value(static_cast<unsigned>(d)), multiplier(0), shift(0) {
    while ((int64_t{1} << shift) < d) ++shift;
    multiplier = static_cast<unsigned>((((uint64_t{1} << shift) - value) << 32) / value + 1);
  }

  __device__ __forceinline__ unsigned quotient(unsigned n) const {
    return (static_cast<unsigned>(uint64_t{n} * multiplier >> 32) + n) >> shift;
  }

  // The quotient; n becomes the remainder.
  __device__ __forceinline__ unsigned divide(unsigned* n) const {
    const unsigned q = quotient(*n);
    *n -= q * value;
    return q;
  }
};

}  // namespace micronet

#endif  // MICRONET_CUDA_DIVIDE_H_
