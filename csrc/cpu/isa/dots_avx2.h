// Sixteen sums of four products of bytes each, in two AVX2 registers. See dots_baseline.h.
#ifndef MICRONET_CPU_ISA_DOTS_AVX2_H_
#define MICRONET_CPU_ISA_DOTS_AVX2_H_

#include <cstring>

#include "cpu/isa/lanes.h"
#include "cpu/isa/transpose.h"
#include "cpu/isa/vector_avx2.h"

namespace micronet {
namespace {

struct Dots {
  __m256i a, b;  // channels 0 to 7, 8 to 15

  static constexpr int kPixels = 2, kPanels = 2;
  static constexpr bool kReadsSome = false;
  static constexpr int kLanes = 16;
  using Lane = int32_t;

  struct Weights {
    __m256i a, b;
  };

  static Dots zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static Dots load(const int32_t* p) { return {half(p), half(p + 8)}; }
  static Weights weights(const int8_t* p) { return {half(p), half(p + 32)}; }
  static __m256i four(const uint8_t* p) {
    int32_t word;
    std::memcpy(&word, p, 4);
    return _mm256_set1_epi32(word);
  }

  template <bool kWide>
  void add(__m256i x, const Weights& weights) {
    a = _mm256_add_epi32(a, sum<kWide>(x, weights.a));
    b = _mm256_add_epi32(b, sum<kWide>(x, weights.b));
  }
  // Plus sixteen numbers times one.
  Dots plus(const int32_t* p, int32_t factor) const {
    const __m256i all = _mm256_set1_epi32(factor);
    return {_mm256_add_epi32(a, _mm256_mullo_epi32(half(p), all)),
            _mm256_add_epi32(b, _mm256_mullo_epi32(half(p + 8), all))};
  }
  static constexpr int kChains = 1;
  static __m256i signed_four(int32_t four) { return _mm256_set1_epi32(four); }
  template <bool kWide>
  void add_pixels(const uint8_t* x, __m256i four) {
    a = _mm256_add_epi32(a, sum<kWide>(half(x), four));
    b = _mm256_add_epi32(b, sum<kWide>(half(x + 32), four));
  }
  friend Dots operator+(const Dots& x, const Dots& y) {
    return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
  }
  template <typename T>
  void store(T* p, int count, bool) const {
    store_lanes_of(*this, p, count);
  }
  void put(int32_t* lanes) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes + 8), b);
  }
  Vector value() const { return {_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b)}; }

 private:
  template <typename T>
  static __m256i half(const T* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  template <bool kWide>
  static __m256i sum(__m256i x, __m256i w) {
    if constexpr (!kWide) return sum_pairs(x, w, 1);
    // Half bytes apart: the pairs of either stay far from the limits of 16 bits.
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i upper = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
    return _mm256_add_epi32(sum_pairs(_mm256_and_si256(x, low), w, 1), sum_pairs(upper, w, 16));
  }
  static __m256i sum_pairs(__m256i x, __m256i w, int16_t factor) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(factor));
  }
};

struct LongRegisters {
  using Weight = int16_t;
  __m256i a, b;

  struct Weights {
    __m256i a, b;
  };

  static LongRegisters start(const int32_t* p) { return {half(p), half(p + 8)}; }
  static Weights weights(const int16_t* p) { return {half(p), half(p + 16)}; }
  void add(const uint8_t* x, const Weights& two) {
    a = _mm256_add_epi32(a, _mm256_madd_epi16(sixteen(x), two.a));
    b = _mm256_add_epi32(b, _mm256_madd_epi16(sixteen(x + 16), two.b));
  }
  void put(int32_t* lanes) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes + 8), b);
  }

 private:
  template <typename T>
  static __m256i half(const T* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static __m256i sixteen(const uint8_t* p) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
};

using Longs = ByLanes<LongRegisters, int32_t, 16>;

struct ShortRegisters {
  using Weight = int8_t;
  __m256i a, b;

  struct Weights {
    __m256i a, b;
  };

  static ShortRegisters start(const int32_t* p) {
    int16_t lanes[32];
    for (int l = 0; l < 32; ++l) lanes[l] = static_cast<int16_t>(p[l]);
    return {half(lanes), half(lanes + 16)};
  }
  static Weights weights(const int8_t* p) { return {half(p), half(p + 32)}; }
  // Pairs stay within 16 bits, as the sums do.
  void add(const uint8_t* x, const Weights& two) {
    a = _mm256_add_epi16(a, _mm256_maddubs_epi16(half(x), two.a));
    b = _mm256_add_epi16(b, _mm256_maddubs_epi16(half(x + 32), two.b));
  }
  // Of 32 channels.
  static void pair(const uint8_t* left, const uint8_t* right, uint8_t* pairs) {
    for (int i = 0; i < 32; i += 16) {
      const __m128i l = quarter(left + i), r = quarter(right + i);
      auto* to = reinterpret_cast<__m128i*>(pairs + 2 * i);
      _mm_storeu_si128(to, _mm_unpacklo_epi8(l, r));
      _mm_storeu_si128(to + 1, _mm_unpackhi_epi8(l, r));
    }
  }
  static void interleave_sixteen(const uint8_t* left, const uint8_t* right, uint8_t* pairs) {
    const __m128i l = quarter(left), r = quarter(right);
    spread(_mm256_cvtepu16_epi32(_mm_unpacklo_epi8(l, r)), pairs);
    spread(_mm256_cvtepu16_epi32(_mm_unpackhi_epi8(l, r)), pairs + 32);
  }
  void put(int16_t* lanes) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes + 16), b);
  }

 private:
  template <typename T>
  static __m256i half(const T* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static __m128i quarter(const uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static void spread(__m256i both, uint8_t* pairs) {
    const __m256i split = _mm256_or_si256(both, _mm256_slli_epi32(both, 12));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(pairs),
                        _mm256_and_si256(split, _mm256_set1_epi8(15)));
  }
};

using Shorts = ByLanes<ShortRegisters, int16_t, 32>;

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_DOTS_AVX2_H_
