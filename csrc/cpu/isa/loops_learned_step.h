// The inner loops of learned steps, and sums in their stated order.
#ifndef MICRONET_CPU_ISA_LOOPS_LEARNED_STEP_H_
#define MICRONET_CPU_ISA_LOOPS_LEARNED_STEP_H_

#include "cpu/isa/loops.h"
#include "cpu/isa/loops_weight.h"

namespace micronet {
namespace {

// Past the caches where the row says so.
template <typename T>
MICRONET_INLINE void store_row(const LearnedRow& row, const Vector& v, T* p, int count) {
  if (row.streamed) {
    store<true>(v, p, count);
  } else {
    store(v, p, count);
  }
}

template <bool kMasked, typename T>
void learned_fake_quant(const LearnedRow& row, T* y) {
  const Lanes q(row.q);
  const MaskReader mask(row.mask);
  const T* x = static_cast<const T*>(row.x);
  for_vectors(row.numel, [&](int64_t i, int count) {
    fetch_ahead(x + i);
    store_row(row, q.template value<false>(load_kept<kMasked>(x, mask, i, count)), y + i, count);
  });
  Vector::fence();
}

// Lane sums 256 -> 16 -> 1, as core.h states.
inline float sum_lanes(Vector* lanes) {
  for (int half = kWidth / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] = lanes[l] + lanes[l + half];
  }
  return Vector::sum_pairwise(lanes[0]);
}

template <bool kMasked, typename T>
float learned_gradient(const LearnedRow& row, const T* grad, T* grad_x) {
  const Lanes q(row.q);
  const MaskReader mask(row.mask);
  const Vector least = q.zero_point, most = q.zero_point + q.code_max;
  const T* x = static_cast<const T*>(row.x);
  Vector sums[kWidth];
  for (Vector& lane : sums) lane = Vector::all(0.0f);
  for_vectors(row.numel, [&](int64_t i, int count) {
    fetch_ahead(x + i);
    fetch_ahead(grad + i);
    const Vector v = load_kept<kMasked>(x, mask, i, count), t = q.scale * v;
    const Vector code = Vector::select(Vector::is_finite(v), Vector::round(q.clamped(t)), q.nan);
    const Vector whole = code + q.zero_point;
    const auto inside = Vector::both(Vector::below(least, t), Vector::below(t, most));
    const Vector g = load(grad + i, count);
    // Beyond the row there is no term, whatever the step makes of 0.
    const auto terms = Vector::from_bits((1u << count) - 1);
    Vector& lane = sums[i / kWidth % kWidth];
    lane = lane + Vector::keep(terms, g * Vector::select(inside, whole - t, whole));
    Vector kept = Vector::keep(inside, g);
    if (kMasked) kept = Vector::keep(Vector::from_bits(mask(i)), kept);
    store_row(row, kept, grad_x + i, count);
  });
  Vector::fence();
  return sum_lanes(sums);
}

inline float sum_block(const float* x, int64_t numel) {
  Vector sums[kWidth];
  for (Vector& lane : sums) lane = Vector::all(0.0f);
  for_vectors(numel, [&](int64_t i, int count) {
    Vector& lane = sums[i / kWidth % kWidth];
    lane = lane + load(x + i, count);
  });
  return sum_lanes(sums);
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_LOOPS_LEARNED_STEP_H_
