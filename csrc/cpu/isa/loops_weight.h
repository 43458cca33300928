// The inner loops over rows of weights.
#ifndef MICRONET_CPU_ISA_LOOPS_WEIGHT_H_
#define MICRONET_CPU_ISA_LOOPS_WEIGHT_H_

#include "cpu/isa/loops.h"

namespace micronet {
namespace {

// Elements of a row, 0 where its mask is.
template <bool kMasked, typename T>
MICRONET_INLINE Vector load_kept(const T* w, const MaskReader& mask, int64_t i, int count) {
  const Vector v = load(w + i, count);
  return kMasked ? Vector::keep(Vector::from_bits(mask(i)), v) : v;
}

// What pays only once a row has several vectors: looking values up, whose table takes a division,
// and more than one chain of operations.
constexpr int64_t kShortRow = 4 * kWidth;

// The quantizer of a row of weights from its own extremes; 0 belongs to the range in any case, so
// that the zeros of a partial vector do no harm.
template <bool kMasked, typename T>
MICRONET_OUTLINE Quantizer extremes_quantizer(const T* w, const MaskReader& mask, int64_t numel,
                                              int levels, int scheme) {
  LaneExtremes seen;
  int64_t i = 0;
  if (numel >= kShortRow) {
    // In two chains, since each minimum waits for the one before it.
    LaneExtremes odd;
    for (; i + 2 * kWidth <= numel; i += 2 * kWidth) {
      fetch_ahead(w + i);
      seen.add(load_kept<kMasked>(w, mask, i, kWidth));
      fetch_ahead(w + i + kWidth);
      odd.add(load_kept<kMasked>(w, mask, i + kWidth, kWidth));
    }
    seen.add(odd);
  }
  for (; i < numel; i += kWidth) {
    fetch_ahead(w + i);
    const int count = numel - i < kWidth ? static_cast<int>(numel - i) : kWidth;
    seen.add(load_kept<kMasked>(w, mask, i, count));
  }
  const bool has_nan = Vector::bits(seen.nan) != 0;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  return make_quantizer(has_nan ? nan : Vector::least_lane(seen.least),
                        has_nan ? nan : Vector::most_lane(seen.most), levels, scheme);
}

// The values of sixteen codes, each at its lowest four bits.
MICRONET_INLINE void fill_values(const Lanes& q, float* values) {
  float code[kWidth];
  for (int c = 0; c < kWidth; ++c) code[c] = static_cast<float>(c < kWidth / 2 ? c : c - kWidth);
  const Vector signed_codes = Vector::load(code);
  const Vector wrapped = Vector::select(Vector::below(signed_codes, q.code_min),
                                        signed_codes + Vector::all(16.0f), signed_codes);
  ((wrapped + q.zero_point) / q.scale).store(values);
}

template <bool kMasked, bool kStreamed, typename T>
MICRONET_INLINE void fake_quant_row(const T* w, const MaskReader& mask, int64_t numel,
                                    const Quantizer& found, T* w_hat) {
  float values[kWidth] = {};
  const Lanes q(found, values);
  // Also tells that the row is finite: its range is, and a NaN would have made that NaN.
  const bool is_small = found.code_max - found.code_min < 16.0f && found.scale <= FLT_MAX &&
                        found.hi - found.lo <= FLT_MAX;
  if (Vector::kLooksUp && is_small && numel > kShortRow) {
    fill_values(q, values);
    for_vectors(numel, [&](int64_t i, int count) MICRONET_LAMBDA {
      const Vector x = load_kept<kMasked>(w, mask, i, count);
      store<kStreamed>(q.template value_of_finite<Vector::kLooksUp>(x), w_hat + i, count);
    });
  } else {
    for_vectors(numel, [&](int64_t i, int count) MICRONET_LAMBDA {
      const Vector x = load_kept<kMasked>(w, mask, i, count);
      store(q.template value<false>(x), w_hat + i, count);
    });
  }
}

// The code itself, in two's complement where it is signed; those of kSymmetric are made unsigned.
// A learned step does not see its weights as a range does: one that has no code takes the scale.
template <bool kMasked, typename T>
MICRONET_INLINE Quantizer codes_row(const T* w, const MaskReader& mask, int64_t numel, int scheme,
                                    Quantizer found, uint8_t* codes) {
  const Lanes q(found);
  const Vector least = scheme == kSymmetric ? q.code_min : Vector::all(0.0f);
  constexpr uint32_t kAllLanes = (1u << kWidth) - 1;
  uint32_t lanes = kAllLanes;
  for_vectors(numel, [&](int64_t i, int count) {
    const Vector x = load_kept<kMasked>(w, mask, i, count);
    const Vector code = q.clamped_code(x);
    const auto finite = Vector::is_finite(x);
    const auto known = Vector::both(finite, Vector::is_finite(code));
    lanes &= Vector::bits(finite);
    uint8_t bytes[kWidth];
    Vector::store_bytes(Vector::whole(Vector::keep(known, Vector::round(code) - least)), bytes);
    std::memcpy(codes + i, bytes, static_cast<size_t>(count));
  });
  if (scheme == kSymmetric) found.zero_point = found.code_min;
  if (scheme == kLearned && lanes != kAllLanes) found.scale = NAN;
  return found;
}

// A weight and one of its channels.
template <typename T>
struct Row {
  const T* w;
  MaskReader mask;
  int64_t first, numel;

  Row(const Weight& weight, int64_t channel)
      : w(static_cast<const T*>(weight.w) + channel * weight.per_channel),
        mask(Bits{weight.mask, bytes_for(weight.channels * weight.per_channel),
                  channel * weight.per_channel}),
        first(channel * weight.per_channel),
        numel(weight.per_channel) {}
};

inline void note(const Weight& weight, int64_t channel, const Quantizer& q) {
  if (weight.scale != nullptr) weight.scale[channel] = q.scale;
  if (weight.zero_point != nullptr) weight.zero_point[channel] = q.zero_point;
}

// Channels [from, to) of a weight, to values; a row that starts within a cache line is not
// streamed.
template <bool kMasked, typename T>
void fake_quant_rows(const Weight& weight, int scheme, int64_t from, int64_t to, bool streamed,
                     const T*) {
  for (int64_t c = from; c < to; ++c) {
    const Row<T> row(weight, c);
    T* w_hat = static_cast<T*>(weight.w_hat) + row.first;
    const Quantizer found =
        extremes_quantizer<kMasked>(row.w, row.mask, row.numel, weight.levels, scheme);
    note(weight, c, found);
    if (streamed && reinterpret_cast<uintptr_t>(w_hat) % 64 == 0) {
      fake_quant_row<kMasked, true>(row.w, row.mask, row.numel, found, w_hat);
    } else {
      fake_quant_row<kMasked, false>(row.w, row.mask, row.numel, found, w_hat);
    }
  }
  Vector::fence();
}

template <bool kMasked, typename T>
MICRONET_INLINE Quantizer row_quantizer(const Weight& weight, int64_t channel, const Row<T>& row,
                                        int scheme) {
  if (scheme == kLearned) {
    const float* steps = weight.steps + channel;
    return learned_quantizer(steps[0], steps[weight.channels], weight.levels);
  }
  return extremes_quantizer<kMasked>(row.w, row.mask, row.numel, weight.levels, scheme);
}

// As above, to codes.
template <bool kMasked, typename T>
void codes_rows(const Weight& weight, int scheme, int64_t from, int64_t to, const T*) {
  for (int64_t c = from; c < to; ++c) {
    const Row<T> row(weight, c);
    uint8_t* codes = static_cast<uint8_t*>(weight.w_hat) + row.first;
    const Quantizer found = row_quantizer<kMasked>(weight, c, row, scheme);
    note(weight, c, codes_row<kMasked>(row.w, row.mask, row.numel, scheme, found, codes));
  }
}

template <bool kMasked, typename T>
void masked_select(const T* values, const Bits& bits, int64_t numel, T* out) {
  const MaskReader mask(bits);
  for_vectors(numel, [&](int64_t i, int count) {
    store(load_kept<kMasked>(values, mask, i, count), out + i, count);
  });
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_LOOPS_WEIGHT_H_
