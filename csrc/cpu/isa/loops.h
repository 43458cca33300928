// The inner loops over a Vector, included once by the translation unit of each instruction set:
// what they share, and those of activations. See loops_weight.h and loops_learned_step.h.
//
// A loop takes sixteen elements at a time and the rest as a partial vector of zeros.
#ifndef MICRONET_CPU_ISA_LOOPS_H_
#define MICRONET_CPU_ISA_LOOPS_H_

#include <cstring>

#include "cpu/isa/inlining.h"
#include "cpu/kernels.h"

namespace micronet {
namespace {

constexpr int kWidth = 16;

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

// The word that the last bytes of a mask begin.
MICRONET_OUTLINE uint32_t last_word(const uint8_t* p, int64_t bytes) {
  uint32_t word = 0;
  for (int64_t b = 0; b < bytes; ++b) word |= static_cast<uint32_t>(p[b]) << (8 * b);
  return word;
}

// Sixteen bits of a mask at a time, those beyond its last byte being 0.
struct MaskReader {
  const uint8_t* first;
  unsigned shift;
  int64_t size, quick;  // bytes from `first` on; the last element that four bytes are read for

  explicit MaskReader(const Bits& mask)
      : first(mask.bytes == nullptr ? nullptr : mask.bytes + mask.at / 8),
        shift(static_cast<unsigned>(mask.at % 8)),
        size(mask.size - mask.at / 8),
        quick((size - 4) * 8) {}

  // The bits from element i on, a multiple of eight.
  MICRONET_INLINE uint32_t operator()(int64_t i) const {
    const uint8_t* p = first + static_cast<uint64_t>(i) / 8;
    uint32_t word;
    if (i <= quick) {
      std::memcpy(&word, p, 4);
    } else {
      word = last_word(p, size - i / 8);
    }
    return (word >> shift) & 0xffffu;
  }
};

// A quantizer in every lane.
struct Lanes {
  Vector scale, zero_point, code_min, code_max, lo, hi, nan;
  const float* values;

  explicit Lanes(const Quantizer& q, const float* table = nullptr)
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
  Vector value_of_finite(Vector x) const {
    const Vector code = clamped_code(x);
    if constexpr (kTable) {
      return Vector::look_up(values, Vector::whole(code));
    } else {
      return (Vector::round(code) + zero_point) / scale;
    }
  }
  template <bool kTable>
  Vector value(Vector x) const {
    return Vector::select(Vector::is_finite(x), value_of_finite<kTable>(x), nan);
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

  void add(const LaneExtremes& others) {
    least = Vector::min(others.least, least);
    most = Vector::max(others.most, most);
    nan = Vector::either(nan, others.nan);
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

// The codes of a vector from element i on, half a byte each or a whole one.
template <bool kHalves>
MICRONET_INLINE void store_codes(const typename Vector::Whole& whole, int64_t i, int count,
                                 uint8_t* codes) {
  if constexpr (kHalves) {
    uint64_t word = Vector::nibbles(whole);
    if (count < kWidth) word &= (uint64_t{1} << (4 * count)) - 1;
    std::memcpy(codes + i / 2, &word, static_cast<size_t>((count + 1) / 2));
  } else if (count == kWidth) {
    Vector::store_bytes(whole, codes + i);
  } else {
    Vector::store_bytes_some(whole, codes + i, count);
  }
}

template <bool kHalves>
MICRONET_INLINE Vector load_codes(const uint8_t* codes, int64_t i, int count) {
  if constexpr (kHalves) {
    uint64_t word = 0;
    std::memcpy(&word, codes + i / 2, static_cast<size_t>((count + 1) / 2));
    return Vector::from_nibbles(word);
  } else {
    uint8_t bytes[kWidth] = {};
    std::memcpy(bytes, codes + i, static_cast<size_t>(count));
    return Vector::from_bytes(bytes);
  }
}

template <bool kHalves, typename T>
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
    store_codes<kHalves>(q.index(v), i, count, codes);
    store_bits(q.inside(v), count, inside + i / 8);
  });
  seen.add_to(found);
}

template <bool kHalves, bool kStreamed>
void decode(const uint8_t* codes, int64_t numel, const Rounding& r, float* y) {
  const Lanes q(r.q);
  const Vector offset = q.code_min + q.zero_point;
  for_vectors(numel, [&](int64_t i, int count) {
    store<kStreamed>((load_codes<kHalves>(codes, i, count) + offset) / q.scale, y + i, count);
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

inline void copy(const float* from, int64_t numel, float* to) {
  for_vectors(numel,
              [&](int64_t i, int count) { store<true>(load(from + i, count), to + i, count); });
  Vector::fence();
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_LOOPS_H_
