// A range made ready for the inner loops.
#ifndef MICRONET_CPU_ROUNDING_H_
#define MICRONET_CPU_ROUNDING_H_

#include "cpu/kernels.h"

namespace micronet {

static inline Rounding rounding_for(const float* range, int levels, int scheme) {
  Rounding r;
  r.q = make_quantizer(range[0], range[1], levels, scheme);
  // An infinite scale has NaN for the code of 0, which no table holds.
  r.is_small = r.q.code_max - r.q.code_min < 16.0f && r.q.scale <= FLT_MAX;
  if (r.is_small) {
    for (int c = 0; c < 16; ++c) {
      const float code = r.q.code_min + static_cast<float>(c);
      r.values[static_cast<int>(code) & 15] = dequantize(code, r.q);
    }
  }
  return r;
}

// A NaN anywhere is the answer, wherever it stood; minus zero counts as zero.
static inline void finish(const Extremes& found, float* extremes) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  extremes[0] = found.has_nan ? nan : found.least + 0.0f;
  extremes[1] = found.has_nan ? nan : found.most + 0.0f;
}

static inline void merge(const Extremes& from, Extremes* into) {
  into->least = from.least < into->least ? from.least : into->least;
  into->most = from.most > into->most ? from.most : into->most;
  into->has_nan = into->has_nan || from.has_nan;
}

}  // namespace micronet

#endif  // MICRONET_CPU_ROUNDING_H_
