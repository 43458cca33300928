// The inner loops over a Vector, included once by the translation unit of each instruction set.
//
// A loop takes sixteen elements at a time and the rest as a partial vector of zeros.
#ifndef MICRONET_CPU_LOOPS_H_
#define MICRONET_CPU_LOOPS_H_

#include <cstring>

#include "kernels.h"

namespace micronet {
namespace {

constexpr int kWidth = 16;

// Functions that only pay where the compiler sees through them.
#define MICRONET_INLINE __attribute__((always_inline)) inline
#define MICRONET_LAMBDA __attribute__((always_inline))

// Calls body(index, count) for each vector of [0, numel), count below kWidth only at the end.
template <typename Body>
MICRONET_INLINE void for_vectors(int64_t numel, const Body& body) {
  int64_t i = 0;
  for (; i + kWidth <= numel; i += kWidth) body(i, kWidth);
  if (i < numel) body(i, static_cast<int>(numel - i));
}

// Asks for what a loop over p will read 4 KiB from here: the processor's own prefetching stops at
// pages, and a loop of many operations keeps too few loads under way to hide what it waits for.
template <typename T>
MICRONET_INLINE void fetch_ahead(const T* p) {
  constexpr int64_t kBytes = 4096;
  __builtin_prefetch(reinterpret_cast<const char*>(p) + kBytes);
}

template <typename T>
MICRONET_INLINE Vector load(const T* p, int count) {
  return count == kWidth ? Vector::load(p) : Vector::load_some(p, count);
}

template <bool kStreamed = false, typename T>
MICRONET_INLINE void store(const Vector& v, T* p, int count) {
  if (count == kWidth) {
    kStreamed ? v.stream(p) : v.store(p);
  } else {
    v.store_some(p, count);
  }
}

// Two bytes of bits, or one where the vector has at most eight elements; bits beyond are 0.
MICRONET_INLINE void store_bits(uint32_t bits, int count, uint8_t* p) {
  bits &= (1u << count) - 1;
  p[0] = static_cast<uint8_t>(bits);
  if (count > 8) p[1] = static_cast<uint8_t>(bits >> 8);
}

MICRONET_INLINE uint32_t load_bits(const uint8_t* p, int count) {
  return count > 8 ? p[0] | static_cast<uint32_t>(p[1]) << 8 : p[0];
}

// The sixteen bits from element i on; bits beyond the last byte are 0.
MICRONET_INLINE uint32_t bits_from(const Bits& mask, int64_t i) {
  const uint64_t bit = static_cast<uint64_t>(mask.at + i), first = bit / 8;
  const uint64_t size = static_cast<uint64_t>(mask.size);
  uint32_t word = 0;
  if (first + 4 <= size) {
    std::memcpy(&word, mask.bytes + first, 4);
  } else {
    for (uint64_t b = first; b < size; ++b) {
      word |= static_cast<uint32_t>(mask.bytes[b]) << (8 * (b - first));
    }
  }
  return (word >> (bit % 8)) & 0xffffu;
}

// A quantiser in every lane.
struct Lanes {
  Vector scale, zero_point, code_min, code_max, lo, hi, nan;
  const float* values;

  explicit Lanes(const Quantiser& q, const float* table = nullptr)
      : scale(Vector::all(q.scale)),
        zero_point(Vector::all(q.zero_point)),
        code_min(Vector::all(q.code_min)),
        code_max(Vector::all(q.code_max)),
        lo(Vector::all(q.lo)),
        hi(Vector::all(q.hi)),
        nan(Vector::all(std::numeric_limits<float>::quiet_NaN())),
        values(table) {}

  // Clamped, not yet rounded; NaN stays NaN.
  Vector clamped(Vector scaled) const {
    return Vector::min(code_max, Vector::max(code_min, scaled - zero_point));
  }
  Vector clamped_code(Vector x) const { return clamped(scale * x); }

  // 0 to states - 1; 0 where x is not finite or its code is NaN.
  typename Vector::Whole index(Vector x) const {
    const Vector code = clamped_code(x);
    const Vector from_zero = Vector::round(code) - code_min;
    return Vector::whole(
        Vector::keep(Vector::both(Vector::is_finite(x), Vector::is_finite(code)), from_zero));
  }

  template <bool kTable>
  Vector value(Vector x) const {
    const Vector code = clamped_code(x);
    Vector y;
    if constexpr (kTable) {
      y = Vector::look_up(values, Vector::whole(code));
    } else {
      y = (Vector::round(code) + zero_point) / scale;
    }
    return Vector::select(Vector::is_finite(x), y, nan);
  }

  uint32_t inside(Vector x) const {
    return Vector::bits(Vector::both(Vector::at_most(lo, x), Vector::at_most(x, hi)));
  }
};

// Extremes of whole vectors, in every lane apart.
struct LaneExtremes {
  Vector least = Vector::all(std::numeric_limits<float>::infinity());
  Vector most = Vector::all(-std::numeric_limits<float>::infinity());
  typename Vector::Mask nan = Vector::none();

  void add(Vector x) {
    least = Vector::min(x, least);
    most = Vector::max(x, most);
    nan = Vector::either(nan, Vector::is_nan(x));
  }

  void add_to(Extremes* found) const {
    const float l = Vector::least_lane(least), m = Vector::most_lane(most);
    found->least = l < found->least ? l : found->least;
    found->most = m > found->most ? m : found->most;
    found->has_nan = found->has_nan || Vector::bits(nan) != 0;
  }
};

// The elements beyond the last whole vector, or those of a partial vector.
template <typename T>
inline void add_each(const T* x, int count, Extremes* found) {
  for (int i = 0; i < count; ++i) {
    const float v = widen(x[i]);
    found->least = v < found->least ? v : found->least;
    found->most = v > found->most ? v : found->most;
    found->has_nan = found->has_nan || v != v;
  }
}

// Two vectors from each half in turn, each with accumulators of its own, fetched ahead: one stream
// that is not fetched reads 64 Mi floats a fifth slower.
template <typename T>
void extremes(const T* x, int64_t numel, Extremes* found) {
  constexpr int64_t kStep = 2 * kWidth;
  const int64_t half = numel / 2 / kStep * kStep;
  LaneExtremes apart[4];
  for (int64_t i = 0; i < half; i += kStep) {
    for (int k = 0; k < 4; ++k) {
      const T* p = x + i + k / 2 * half + k % 2 * kWidth;
      fetch_ahead(p);
      apart[k].add(Vector::load(p));
    }
  }
  int64_t i = 2 * half;
  for (; i + kWidth <= numel; i += kWidth) apart[0].add(Vector::load(x + i));
  for (const LaneExtremes& lanes : apart) lanes.add_to(found);
  add_each(x + i, static_cast<int>(numel - i), found);
}

template <bool kTable, bool kObserved, bool kStreamed, typename T>
void fake_quant(const T* x, int64_t numel, const Rounding& r, T* y, uint8_t* inside,
                Extremes* found) {
  const Lanes q(r.q, r.values);
  LaneExtremes seen;
  for_vectors(numel, [&](int64_t i, int count) MICRONET_LAMBDA {
    fetch_ahead(x + i);
    const Vector v = load(x + i, count);
    if constexpr (kObserved) {
      if (count == kWidth) {
        seen.add(v);
      } else {
        add_each(x + i, count, found);
      }
    }
    store<kStreamed>(q.template value<kTable>(v), y + i, count);
    store_bits(q.inside(v), count, inside + i / 8);
  });
  if constexpr (kObserved) seen.add_to(found);
  if constexpr (kStreamed) Vector::fence();
}

template <typename T>
void encode(const T* x, int64_t numel, const Rounding& r, uint8_t* codes, uint8_t* inside,
            Extremes* found) {
  const Lanes q(r.q);
  LaneExtremes seen;
  for_vectors(numel, [&](int64_t i, int count) MICRONET_LAMBDA {
    fetch_ahead(x + i);
    const Vector v = load(x + i, count);
    if (count == kWidth) {
      seen.add(v);
    } else {
      add_each(x + i, count, found);
    }
    uint64_t word = Vector::nibbles(q.index(v));
    if (count < kWidth) word &= (uint64_t{1} << (4 * count)) - 1;
    std::memcpy(codes + i / 2, &word, static_cast<size_t>((count + 1) / 2));
    store_bits(q.inside(v), count, inside + i / 8);
  });
  seen.add_to(found);
}

template <bool kStreamed>
void decode(const uint8_t* codes, int64_t numel, const Rounding& r, float* y) {
  const Lanes q(r.q);
  const Vector offset = q.code_min + q.zero_point;
  for_vectors(numel, [&](int64_t i, int count) {
    uint64_t word = 0;
    std::memcpy(&word, codes + i / 2, static_cast<size_t>((count + 1) / 2));
    store<kStreamed>((Vector::from_nibbles(word) + offset) / q.scale, y + i, count);
  });
  if constexpr (kStreamed) Vector::fence();
}

template <bool kStreamed, typename T>
void select(const T* values, const uint8_t* bits, int64_t numel, T* out) {
  for_vectors(numel, [&](int64_t i, int count) MICRONET_LAMBDA {
    fetch_ahead(values + i);
    const typename Vector::Mask kept = Vector::from_bits(load_bits(bits + i / 8, count));
    store<kStreamed>(Vector::keep(kept, load(values + i, count)), out + i, count);
  });
  if constexpr (kStreamed) Vector::fence();
}

// Elements of a row, 0 where its mask is.
template <bool kMasked, typename T>
MICRONET_INLINE Vector load_kept(const T* w, const Bits& mask, int64_t i, int count) {
  const Vector v = load(w + i, count);
  return kMasked ? Vector::keep(Vector::from_bits(bits_from(mask, i)), v) : v;
}

// The quantiser of a row of weights from its own extremes; 0 belongs to the range in any case, so
// that the zeros of a partial vector do no harm.
template <bool kMasked, typename T>
MICRONET_INLINE Quantiser row_quantiser(const T* w, const Bits& mask, int64_t numel, int levels,
                                        int scheme) {
  LaneExtremes seen;
  for_vectors(numel, [&](int64_t i, int count) MICRONET_LAMBDA {
    fetch_ahead(w + i);
    seen.add(load_kept<kMasked>(w, mask, i, count));
  });
  const bool has_nan = Vector::bits(seen.nan) != 0;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  return make_quantiser(has_nan ? nan : Vector::least_lane(seen.least),
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

// Looking values up pays once a row has several vectors to spread the table's division over.
constexpr int64_t kShortRow = 4 * kWidth;

template <bool kMasked, bool kStreamed, typename T>
MICRONET_INLINE Quantiser fake_quant_row(const T* w, const Bits& mask, int64_t numel, int levels,
                                         int scheme, T* w_hat) {
  const Quantiser found = row_quantiser<kMasked>(w, mask, numel, levels, scheme);
  float values[kWidth] = {};
  const Lanes q(found, values);
  const bool is_small = found.code_max - found.code_min < 16.0f && found.scale <= FLT_MAX;
  if (Vector::kLooksUp && is_small && numel > kShortRow) {
    fill_values(q, values);
    for_vectors(numel, [&](int64_t i, int count) MICRONET_LAMBDA {
      const Vector x = load_kept<kMasked>(w, mask, i, count);
      store<kStreamed>(q.template value<Vector::kLooksUp>(x), w_hat + i, count);
    });
  } else {
    for_vectors(numel, [&](int64_t i, int count) MICRONET_LAMBDA {
      const Vector x = load_kept<kMasked>(w, mask, i, count);
      store(q.template value<false>(x), w_hat + i, count);
    });
  }
  return found;
}

// The code itself, in two's complement where it is signed.
template <bool kMasked, typename T>
MICRONET_INLINE Quantiser codes_row(const T* w, const Bits& mask, int64_t numel, int levels,
                                    int scheme, uint8_t* codes) {
  const Quantiser found = row_quantiser<kMasked>(w, mask, numel, levels, scheme);
  const Lanes q(found);
  for_vectors(numel, [&](int64_t i, int count) {
    const Vector x = load_kept<kMasked>(w, mask, i, count);
    const Vector code = q.clamped_code(x);
    const auto known = Vector::both(Vector::is_finite(x), Vector::is_finite(code));
    uint8_t bytes[kWidth];
    Vector::store_bytes(Vector::whole(Vector::keep(known, Vector::round(code))), bytes);
    std::memcpy(codes + i, bytes, static_cast<size_t>(count));
  });
  return found;
}

// A weight and one of its channels.
template <typename T>
struct Row {
  const T* w;
  Bits mask;
  int64_t first, numel;

  Row(const Weight& weight, int64_t channel)
      : w(static_cast<const T*>(weight.w) + channel * weight.per_channel),
        mask{weight.mask, bytes_for(weight.channels * weight.per_channel),
             channel * weight.per_channel},
        first(channel * weight.per_channel),
        numel(weight.per_channel) {}
};

inline void note(const Weight& weight, int64_t channel, const Quantiser& q) {
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
    const bool past = streamed && reinterpret_cast<uintptr_t>(w_hat) % 64 == 0;
    note(weight, c,
         past ? fake_quant_row<kMasked, true>(row.w, row.mask, row.numel, weight.levels, scheme,
                                              w_hat)
              : fake_quant_row<kMasked, false>(row.w, row.mask, row.numel, weight.levels, scheme,
                                               w_hat));
  }
  Vector::fence();
}

// As above, to codes.
template <bool kMasked, typename T>
void codes_rows(const Weight& weight, int scheme, int64_t from, int64_t to, const T*) {
  for (int64_t c = from; c < to; ++c) {
    const Row<T> row(weight, c);
    uint8_t* codes = static_cast<uint8_t*>(weight.w_hat) + row.first;
    note(weight, c, codes_row<kMasked>(row.w, row.mask, row.numel, weight.levels, scheme, codes));
  }
}

template <bool kMasked, typename T>
void masked_select(const T* values, const Bits& mask, int64_t numel, T* out) {
  for_vectors(numel, [&](int64_t i, int count) {
    store(load_kept<kMasked>(values, mask, i, count), out + i, count);
  });
}

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
  const T* x = static_cast<const T*>(row.x);
  for_vectors(row.numel, [&](int64_t i, int count) {
    fetch_ahead(x + i);
    store_row(row, q.template value<false>(load_kept<kMasked>(x, row.mask, i, count)), y + i,
              count);
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
  const Vector least = q.zero_point, most = q.zero_point + q.code_max;
  const T* x = static_cast<const T*>(row.x);
  Vector sums[kWidth];
  for (Vector& lane : sums) lane = Vector::all(0.0f);
  for_vectors(row.numel, [&](int64_t i, int count) {
    fetch_ahead(x + i);
    fetch_ahead(grad + i);
    const Vector v = load_kept<kMasked>(x, row.mask, i, count), t = q.scale * v;
    const Vector code = Vector::select(Vector::is_finite(v), Vector::round(q.clamped(t)), q.nan);
    const Vector whole = code + q.zero_point;
    const auto inside = Vector::both(Vector::below(least, t), Vector::below(t, most));
    const Vector g = load(grad + i, count);
    // Beyond the row there is no term, whatever the step makes of 0.
    const auto terms = Vector::from_bits((1u << count) - 1);
    Vector& lane = sums[i / kWidth % kWidth];
    lane = lane + Vector::keep(terms, g * Vector::select(inside, whole - t, whole));
    Vector kept = Vector::keep(inside, g);
    if (kMasked) kept = Vector::keep(Vector::from_bits(bits_from(row.mask, i)), kept);
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

inline void copy(const float* from, int64_t numel, float* to) {
  for_vectors(numel,
              [&](int64_t i, int count) { store<true>(load(from + i, count), to + i, count); });
  Vector::fence();
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_LOOPS_H_
