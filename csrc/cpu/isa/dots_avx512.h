// Sixteen sums of four products of bytes each, in an AVX-512 register, with VNNI where the
// translation unit allows it. See dots_baseline.h.
#ifndef MICRONET_CPU_ISA_DOTS_AVX512_H_
#define MICRONET_CPU_ISA_DOTS_AVX512_H_

#include <cstring>

#include "cpu/isa/vector_avx512.h"

namespace micronet {
namespace {

struct Dots {
  __m512i v;

  static constexpr int kPixels = 6, kPanels = 4;
  static constexpr bool kReadsSome = true;

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

  template <bool kWide>
  void add(__m512i x, const Weights& weights) {
    add<kWide>(x, weights.w);
  }
  // Plus sixteen numbers times one.
  Dots plus(const int32_t* p, int32_t factor) const {
    const __m512i product = _mm512_mullo_epi32(_mm512_loadu_si512(p), _mm512_set1_epi32(factor));
    return {_mm512_add_epi32(v, product)};
  }

  static constexpr int kChains = 2;
  static __m512i signed_four(int32_t four) { return _mm512_set1_epi32(four); }
  template <bool kWide>
  void add_pixels(const uint8_t* x, __m512i four) {
    add<kWide>(_mm512_loadu_si512(x), four);
  }
  // Of `count` < 64 codes, the others 0.
  void add_some_pixels(const uint8_t* x, int count, __m512i four) {
    add<false>(_mm512_maskz_loadu_epi8((uint64_t{1} << count) - 1, x), four);
  }

  friend Dots operator+(const Dots& x, const Dots& y) { return {_mm512_add_epi32(x.v, y.v)}; }
  void store(int32_t* p, int count, bool streamed) const {
    if (streamed && count == 16 && reinterpret_cast<uintptr_t>(p) % 64 == 0) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(p), v);
    } else {
      _mm512_mask_storeu_epi32(p, Vector::first(count), v);
    }
  }
  void store(int16_t* p, int count, bool streamed) const {
    if (streamed && count == 16 && reinterpret_cast<uintptr_t>(p) % 32 == 0) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(v));
    } else {
      _mm512_mask_cvtepi32_storeu_epi16(p, Vector::first(count), v);
    }
  }
  Vector value() const { return {_mm512_cvtepi32_ps(v)}; }

 private:
  template <bool kWide>
  void add(__m512i x, __m512i w) {
#ifdef __AVX512VNNI__
    v = _mm512_dpbusd_epi32(v, x, w);
#else
    if constexpr (kWide) {
      // Half bytes apart: the pairs of either stay far from the limits of 16 bits.
      const __m512i half = _mm512_set1_epi8(15);
      add_pairs(_mm512_and_si512(x, half), w, 1);
      add_pairs(_mm512_and_si512(_mm512_srli_epi16(x, 4), half), w, 16);
    } else {
      add_pairs(x, w, 1);
    }
#endif
  }
  void add_pairs(__m512i x, __m512i w, int16_t factor) {
    const __m512i pairs = _mm512_maddubs_epi16(x, w);
    v = _mm512_add_epi32(v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(factor)));
  }
};

// Sixteen rows of sixteen words to columns: words, then double words, then quarters of registers.
inline void transpose(const uint8_t* in, int64_t in_stride, uint8_t* out, int64_t out_stride) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(in + i * in_stride);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int h = 0; h < 2; ++h) {
      a[i + 2 * h] = _mm512_unpacklo_epi64(b[i + h], b[i + 2 + h]);
      a[i + 2 * h + 1] = _mm512_unpackhi_epi64(b[i + h], b[i + 2 + h]);
    }
  }
  // Register 4 * r + c holds, in quarter q, column 4 * q + c of rows 4 * r and on.
  for (int c = 0; c < 4; ++c) {
    const __m512i low01 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xee);
    const __m512i low23 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x44);
    const __m512i high23 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xee);
    _mm512_storeu_si512(out + c * out_stride, _mm512_shuffle_i32x4(low01, low23, 0x88));
    _mm512_storeu_si512(out + (4 + c) * out_stride, _mm512_shuffle_i32x4(low01, low23, 0xdd));
    _mm512_storeu_si512(out + (8 + c) * out_stride, _mm512_shuffle_i32x4(high01, high23, 0x88));
    _mm512_storeu_si512(out + (12 + c) * out_stride, _mm512_shuffle_i32x4(high01, high23, 0xdd));
  }
}

// The first `count` of sixteen integers, as they are, as 16 bits, or as values.
inline void store_some(__m512i v, int32_t* p, int count) {
  _mm512_mask_storeu_epi32(p, Vector::first(count), v);
}
inline void store_some(__m512i v, int16_t* p, int count) {
  _mm512_mask_cvtepi32_storeu_epi16(p, Vector::first(count), v);
}
inline void store_values_of(__m512i v, const float* ratio, float* p, int count) {
  const __mmask16 some = Vector::first(count);
  const __m512 factor = _mm512_maskz_loadu_ps(some, ratio);
  _mm512_mask_storeu_ps(p, some, _mm512_mul_ps(_mm512_cvtepi32_ps(v), factor));
}

struct Longs {
  static constexpr int kLanes = 16;
  using Weight = int16_t;
  __m512i v;

  static Longs start(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
  static __m512i weights(const int16_t* p) { return _mm512_loadu_si512(p); }
  void add(const uint8_t* x, __m512i two) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    v = _mm512_add_epi32(v, _mm512_madd_epi16(_mm512_cvtepu8_epi16(bytes), two));
  }
  template <typename T>
  void store(T* p, int count) const {
    store_some(v, p, count);
  }
  void store_values(const float* ratio, float* p, int count) const {
    store_values_of(v, ratio, p, count);
  }
};

struct Shorts {
  static constexpr int kLanes = 32;
  using Weight = int8_t;
  __m512i v;

  static Shorts start(const int32_t* p) {
    const __m512i whole = _mm512_castsi256_si512(half(p));
    return {_mm512_inserti64x4(whole, half(p + 16), 1)};
  }
  static __m512i weights(const int8_t* p) { return _mm512_loadu_si512(p); }
  // Pairs stay within 16 bits, as the sums do.
  void add(const uint8_t* x, __m512i two) {
    v = _mm512_add_epi16(v, _mm512_maddubs_epi16(_mm512_loadu_si512(x), two));
  }
  static void interleave(const uint8_t* left, const uint8_t* right, int count, uint8_t* pairs) {
    const __mmask16 some = Vector::first(count);
    const __m512i l = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(some, left));
    const __m512i r = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(some, right));
    const __m512i both = _mm512_or_si512(l, _mm512_slli_epi32(r, 8));
    const __m512i split = _mm512_or_si512(both, _mm512_slli_epi32(both, 12));
    _mm512_mask_storeu_epi32(pairs, some, _mm512_and_si512(split, _mm512_set1_epi8(15)));
  }
  // Of 32 channels.
  static void pair(const uint8_t* left, const uint8_t* right, uint8_t* pairs) {
    const auto* l = reinterpret_cast<const __m256i*>(left);
    const auto* r = reinterpret_cast<const __m256i*>(right);
    const __m512i high = _mm512_slli_epi16(_mm512_cvtepu8_epi16(_mm256_loadu_si256(r)), 8);
    const __m512i low = _mm512_cvtepu8_epi16(_mm256_loadu_si256(l));
    _mm512_storeu_si512(pairs, _mm512_or_si512(low, high));
  }
  void store(int16_t* p, int count) const {
    _mm512_mask_storeu_epi16(p, static_cast<__mmask32>((uint64_t{1} << count) - 1), v);
  }
  void store_values(const float* ratio, float* p, int count) const {
    const __m512i low = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(v));
    store_values_of(low, ratio, p, count < 16 ? count : 16);
    if (count <= 16) return;
    const __m512i high = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(v, 1));
    store_values_of(high, ratio + 16, p + 16, count - 16);
  }

 private:
  static __m256i half(const int32_t* p) { return _mm512_cvtepi32_epi16(_mm512_loadu_si512(p)); }
};

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_DOTS_AVX512_H_
