// Sixteen sums of four products of bytes each, in an AVX-512 register, with VNNI where the
// translation unit allows it. See dots_baseline.h.
#ifndef MICRONET_CPU_DOTS_AVX512_H_
#define MICRONET_CPU_DOTS_AVX512_H_

#include <cstring>

#include "vector_avx512.h"

namespace micronet {
namespace {

struct Dots {
  __m512i v;

  static constexpr int kPixels = 6, kPanels = 4;

  struct Weights {
    __m512i w;
  };

  static Dots zero() { return {_mm512_setzero_si512()}; }
  static Dots load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
  static Weights weights(const int8_t* p) { return {_mm512_loadu_si512(p)}; }
  static __m512i four(const uint8_t* p) {
    int32_t word;
    std::memcpy(&word, p, 4);
    return _mm512_set1_epi32(word);
  }

  void add(__m512i x, const Weights& weights) {
#ifdef __AVX512VNNI__
    v = _mm512_dpbusd_epi32(v, x, weights.w);
#else
    // Pairs stay far from the limits of 16 bits: codes are below 16 and weights below 128.
    const __m512i pairs = _mm512_maddubs_epi16(x, weights.w);
    v = _mm512_add_epi32(v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
  }
  friend Dots operator+(const Dots& x, const Dots& y) { return {_mm512_add_epi32(x.v, y.v)}; }
  void store(int32_t* p, int count) const { _mm512_mask_storeu_epi32(p, Vector::first(count), v); }
  void store(int16_t* p, int count) const {
    _mm512_mask_cvtepi32_storeu_epi16(p, Vector::first(count), v);
  }
  Vector value() const { return {_mm512_cvtepi32_ps(v)}; }
};

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_DOTS_AVX512_H_
