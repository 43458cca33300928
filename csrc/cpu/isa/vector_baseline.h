// Sixteen floats in plain C++, for any machine. The other vector_*.h have the same interface.
#ifndef MICRONET_CPU_ISA_VECTOR_BASELINE_H_
#define MICRONET_CPU_ISA_VECTOR_BASELINE_H_

#include <cstdint>

#include "cpu/half.h"
#include "cpu/isa/inlining.h"
#include "cpu/isa/lanes.h"
#include "include/quant.h"

namespace micronet {
namespace {

struct Vector {
  float of[16];

  // Which lanes a comparison held in.
  struct Mask {
    uint32_t of[16];  // 0 or ~0
  };
  struct Whole {
    int32_t of[16];
  };

  // Vectors that are summed at a time.
  static constexpr int kMostSums = 6;
  // Division is as fast as looking values up one by one.
  static constexpr bool kLooksUp = false;
  // Whether there are functions, tables in registers and loads of integers for what follows sums;
  // see vector_avx512.h. Without them the compiler makes the loops.
  static constexpr bool kIsFinisher = false;

  template <typename Operation>
  static Vector each(const Operation& operation) {
    Vector r;
    for (int l = 0; l < 16; ++l) r.of[l] = operation(l);
    return r;
  }

  static Vector all(float v) {
    return each([&](int) { return v; });
  }

  template <typename T>
  static Vector load(const T* p) {
    return each([&](int l) { return widen(p[l]); });
  }
  MICRONET_OUTLINE static Vector load(const Float16* p) {
    return each([&](int l) { return widen(p[l]); });
  }

  // Lanes from `count` on are 0 and not read.
  template <typename T>
  MICRONET_OUTLINE static Vector load_some(const T* p, int count) {
    return each([&](int l) { return l < count ? widen(p[l]) : 0.0f; });
  }

  template <typename T>
  void store(T* p) const {
    for (int l = 0; l < 16; ++l) narrow(of[l], p + l);
  }
  MICRONET_OUTLINE void store(Float16* p) const {
    for (int l = 0; l < 16; ++l) narrow(of[l], p + l);
  }

  template <typename T>
  MICRONET_OUTLINE void store_some(T* p, int count) const {
    for (int l = 0; l < count; ++l) narrow(of[l], p + l);
  }

  // Past the cache where the machine can; p is aligned to the vector. Needs a fence in the end.
  template <typename T>
  void stream(T* p) const {
    store(p);
  }
  static void fence() {}

  friend Vector operator+(const Vector& a, const Vector& b) {
    return each([&](int l) { return a.of[l] + b.of[l]; });
  }
  friend Vector operator-(const Vector& a, const Vector& b) {
    return each([&](int l) { return a.of[l] - b.of[l]; });
  }
  friend Vector operator*(const Vector& a, const Vector& b) {
    return each([&](int l) { return a.of[l] * b.of[l]; });
  }
  friend Vector operator/(const Vector& a, const Vector& b) {
    return each([&](int l) { return a.of[l] / b.of[l]; });
  }
  // a * b + c, rounded once.
  static Vector fma(const Vector& a, const Vector& b, const Vector& c) {
    return each([&](int l) { return fmaf(a.of[l], b.of[l], c.of[l]); });
  }

  // b where v is NaN.
  static Vector min(const Vector& v, const Vector& b) {
    return each([&](int l) { return v.of[l] < b.of[l] ? v.of[l] : b.of[l]; });
  }
  static Vector max(const Vector& v, const Vector& b) {
    return each([&](int l) { return v.of[l] > b.of[l] ? v.of[l] : b.of[l]; });
  }
  static Vector round(const Vector& v) {
    return each([&](int l) { return round_small(v.of[l]); });
  }

  template <typename Condition>
  static Mask where(const Condition& condition) {
    Mask m;
    for (int l = 0; l < 16; ++l) m.of[l] = condition(l) ? ~0u : 0u;
    return m;
  }
  static Mask at_most(const Vector& a, const Vector& b) {
    return where([&](int l) { return a.of[l] <= b.of[l]; });
  }
  static Mask below(const Vector& a, const Vector& b) {
    return where([&](int l) { return a.of[l] < b.of[l]; });
  }
  static Mask is_nan(const Vector& v) {
    return where([&](int l) { return v.of[l] != v.of[l]; });
  }
  static Mask both(const Mask& a, const Mask& b) {
    return where([&](int l) { return (a.of[l] & b.of[l]) != 0; });
  }
  static Mask either(const Mask& a, const Mask& b) {
    return where([&](int l) { return (a.of[l] | b.of[l]) != 0; });
  }
  static Mask is_finite(const Vector& v) {
    return where([&](int l) { return (word_of(v.of[l]) & 0x7f800000u) != 0x7f800000u; });
  }
  static Mask none() {
    return where([](int) { return false; });
  }
  static Mask from_bits(uint32_t bits) {
    return where([&](int l) { return ((bits >> l) & 1) != 0; });
  }
  static uint32_t bits(const Mask& m) {
    uint32_t r = 0;
    for (int l = 0; l < 16; ++l) r |= (m.of[l] & 1u) << l;
    return r;
  }
  static Vector select(const Mask& m, const Vector& a, const Vector& b) {
    return each([&](int l) { return m.of[l] != 0 ? a.of[l] : b.of[l]; });
  }
  // v where the mask holds, else +0.
  static Vector keep(const Mask& m, const Vector& v) {
    return each([&](int l) { return float_of(word_of(v.of[l]) & m.of[l]); });
  }

  // Nearest whole numbers of small floats, halves to even; only the lowest eight bits count.
  static Whole whole(const Vector& v) {
    Whole r;
    for (int l = 0; l < 16; ++l) {
      // The last bits of the shifted sum are the number; no float is converted, so NaN is safe.
      r.of[l] = static_cast<int32_t>(word_of(v.of[l] + 12582912.0f));
    }
    return r;
  }
  // table [16] at the lowest four bits.
  static Vector look_up(const float* table, const Whole& index) {
    return each([&](int l) { return table[index.of[l] & 15]; });
  }
  // table at sixteen bytes.
  static Vector gather(const float* table, const uint8_t* p) {
    return each([&](int l) { return table[p[l]]; });
  }
  // One byte each: the lowest eight bits.
  static void store_bytes(const Whole& w, uint8_t* p) {
    for (int l = 0; l < 16; ++l) p[l] = static_cast<uint8_t>(w.of[l]);
  }
  MICRONET_OUTLINE static void store_bytes_some(const Whole& w, uint8_t* p, int count) {
    for (int l = 0; l < count; ++l) p[l] = static_cast<uint8_t>(w.of[l]);
  }
  // Two a byte: the lowest four bits, the first in the low half.
  static uint64_t nibbles(const Whole& w) {
    uint64_t r = 0;
    for (int l = 0; l < 16; ++l) r |= static_cast<uint64_t>(w.of[l] & 15) << (4 * l);
    return r;
  }
  static Vector from_nibbles(uint64_t word) {
    return each([&](int l) { return static_cast<float>((word >> (4 * l)) & 15); });
  }
  static Vector from_bytes(const uint8_t* p) {
    return each([&](int l) { return static_cast<float>(p[l]); });
  }
  // Whole numbers, or floats.
  template <typename T>
  static Vector load_whole(const T* p, int count) {
    return load_lanes_of<Vector, float>(p, count);
  }
  static float least_lane(const Vector& v) {
    float r = v.of[0];
    for (int l = 1; l < 16; ++l) r = v.of[l] < r ? v.of[l] : r;
    return r;
  }
  static float most_lane(const Vector& v) {
    float r = v.of[0];
    for (int l = 1; l < 16; ++l) r = v.of[l] > r ? v.of[l] : r;
    return r;
  }
  // 0 + 8, 1 + 9, ... then halves again.
  static float sum_pairwise(const Vector& v) {
    float t[16];
    for (int l = 0; l < 16; ++l) t[l] = v.of[l];
    for (int half = 8; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) t[l] = t[l] + t[l + half];
    }
    return t[0];
  }
};

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_VECTOR_BASELINE_H_
