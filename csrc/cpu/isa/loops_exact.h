// The inner loops of evaluation in float: sums of fmas in their stated order.
#ifndef MICRONET_CPU_ISA_LOOPS_EXACT_H_
#define MICRONET_CPU_ISA_LOOPS_EXACT_H_

#include "cpu/kernels.h"
#include "include/exact.h"

namespace micronet {
namespace {

// sums [count] += x * w [count], each rounded once.
inline void add_scaled(float x, const float* w, int64_t count, float* sums) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) sums[i] = fmaf(x, w[i], sums[i]);
}

// The sum of x * w [count], by lanes.
inline float dot_lanes(const float* x, const float* w, int64_t count) {
  float lanes[kLanes] = {};
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
#pragma GCC ivdep
    for (int l = 0; l < kLanes; ++l) lanes[l] = fmaf(x[k + l], w[k + l], lanes[l]);
  }
  for (int l = 0; k + l < count; ++l) lanes[l] = fmaf(x[k + l], w[k + l], lanes[l]);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] = lanes[l] + lanes[l + half];
  }
  return lanes[0];
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_LOOPS_EXACT_H_
