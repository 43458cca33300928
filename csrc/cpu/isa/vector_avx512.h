// Sixteen floats in one AVX-512 register (F, BW, DQ and VL). See vector_baseline.h.
#ifndef MICRONET_CPU_ISA_VECTOR_AVX512_H_
#define MICRONET_CPU_ISA_VECTOR_AVX512_H_

#include <immintrin.h>

#include <cstdint>

#include "cpu/half.h"
#include "cpu/isa/nibbles.h"
#include "include/quant.h"

namespace micronet {
namespace {

struct Vector {
  __m512 v;

  using Mask = __mmask16;
  struct Whole {
    __m512i w;
  };
  // Vectors that are summed at a time: the registers hold them and one more.
  static constexpr int kMostSums = 25;
  static constexpr bool kLooksUp = true, kIsFinisher = true;

  static Vector all(float v) { return {_mm512_set1_ps(v)}; }

  static Vector load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vector load(const BFloat16* p) {
    return wide_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Vector load(const Float16* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }

  static __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1); }

  static Vector load_some(const float* p, int count) {
    return {_mm512_maskz_loadu_ps(first(count), p)};
  }
  static Vector load_some(const BFloat16* p, int count) {
    return wide_bf16(_mm256_maskz_loadu_epi16(first(count), p));
  }
  static Vector load_some(const Float16* p, int count) {
    return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(count), p))};
  }

  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(BFloat16* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16());
  }
  void store(Float16* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_f16()); }

  void store_some(float* p, int count) const { _mm512_mask_storeu_ps(p, first(count), v); }
  void store_some(BFloat16* p, int count) const {
    _mm256_mask_storeu_epi16(p, first(count), narrow_bf16());
  }
  void store_some(Float16* p, int count) const {
    _mm256_mask_storeu_epi16(p, first(count), narrow_f16());
  }

  void stream(float* p) const { _mm512_stream_ps(p, v); }
  void stream(BFloat16* p) const {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow_bf16());
  }
  void stream(Float16* p) const {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow_f16());
  }
  static void fence() { _mm_sfence(); }

  friend Vector operator+(Vector a, Vector b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend Vector operator-(Vector a, Vector b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend Vector operator*(Vector a, Vector b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend Vector operator/(Vector a, Vector b) { return {_mm512_div_ps(a.v, b.v)}; }
  static Vector fma(Vector a, Vector b, Vector c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

  static Vector min(Vector v, Vector b) { return {_mm512_min_ps(v.v, b.v)}; }
  static Vector max(Vector v, Vector b) { return {_mm512_max_ps(v.v, b.v)}; }
  static Vector round(Vector v) {
    return {_mm512_roundscale_ps(v.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }

  static Mask at_most(Vector a, Vector b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ); }
  static Mask below(Vector a, Vector b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
  static Mask is_nan(Vector v) { return _mm512_cmp_ps_mask(v.v, v.v, _CMP_UNORD_Q); }
  // 0x99: quiet NaN, both infinities, signaling NaN.
  static Mask is_finite(Vector v) { return static_cast<Mask>(~_mm512_fpclass_ps_mask(v.v, 0x99)); }
  static Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
  static Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
  static Mask none() { return 0; }
  static Mask from_bits(uint32_t bits) { return static_cast<Mask>(bits); }
  static uint32_t bits(Mask m) { return m; }
  static Vector select(Mask m, Vector a, Vector b) { return {_mm512_mask_mov_ps(b.v, m, a.v)}; }
  static Vector keep(Mask m, Vector v) { return {_mm512_maskz_mov_ps(m, v.v)}; }

  static Whole whole(Vector v) { return {_mm512_cvtps_epi32(v.v)}; }
  static Vector look_up(const float* table, Whole index) {
    return {_mm512_permutexvar_ps(index.w, _mm512_loadu_ps(table))};
  }
  // table at sixteen bytes.
  static Vector gather(const float* table, const uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm512_i32gather_ps(_mm512_cvtepu8_epi32(bytes), table, 4)};
  }
  static void store_bytes(Whole w, uint8_t* p) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(w.w));
  }
  static void store_bytes_some(Whole w, uint8_t* p, int count) {
    _mm_mask_storeu_epi8(p, first(count), _mm512_cvtepi32_epi8(w.w));
  }
  // The lowest bytes of four, which are all that they hold.
  static void store_bytes_of_four(const Whole* w, uint8_t* p) {
    const __m512i low = _mm512_packs_epi32(w[0].w, w[1].w);
    const __m512i high = _mm512_packs_epi32(w[2].w, w[3].w);
    // Quarter q of the registers has bytes [4 * q, 4 * q + 4) of each of the four.
    const __m512i quarters = _mm512_packus_epi16(low, high);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, quarters));
  }
  static uint64_t nibbles(Whole w) { return nibbles_of_bytes(_mm512_cvtepi32_epi8(w.w)); }
  static Vector from_nibbles(uint64_t word) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes_of_nibbles(word)))};
  }
  static Vector from_bytes(const uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))};
  }
  static Vector load_whole(const int32_t* p, int count) {
    return {_mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(first(count), p))};
  }
  static Vector load_whole(const int16_t* p, int count) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(first(count), p)))};
  }

  static Vector load_whole(const int8_t* p, int count) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first(count), p)))};
  }
  static Vector load_whole(const float* p, int count) { return load_some(p, count); }

  // The functions of function.h, operation by operation; a power of two is applied in one step.
  static Vector sigmoid(Vector z) { return all(1.0f) / one_plus_exp_of_minus(z); }
  static Vector swish(Vector z) { return z / one_plus_exp_of_minus(z); }
  // The same where |z| <= kNearSwish: no power of two leaves the exponents.
  static Vector swish_near(Vector z) {
    const Exponential e = exponential_of_minus(z.v);
    const __m512i power = _mm512_slli_epi32(_mm512_castps_si512(e.shifted), 23);
    const __m512 exp = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(e.p), power));
    return {_mm512_div_ps(z.v, _mm512_add_ps(exp, _mm512_set1_ps(1.0f)))};
  }

  // Codes, in the lowest bytes, of values that are finite.
  struct Rounder {
    __m512 scale, zero_point, least, most;
    __m512i first;

    explicit Rounder(const Quantizer& q)
        : scale(_mm512_set1_ps(q.scale)),
          zero_point(_mm512_set1_ps(q.zero_point)),
          least(_mm512_set1_ps(q.code_min)),
          most(_mm512_set1_ps(q.code_max)),
          first(_mm512_cvtps_epi32(least)) {}

    // Of values that are first brought to [low, high]: rounding keeps their order, so that their
    // codes may be brought to those of the ends.
    void keep_between(float low, float high) {
      const __m512 lowest = clamped(Vector::all(low)), highest = clamped(Vector::all(high));
      least = lowest, most = highest;
    }

    __m512 clamped(Vector x) const {
      const __m512 t = _mm512_sub_ps(_mm512_mul_ps(scale, x.v), zero_point);
      return _mm512_min_ps(_mm512_max_ps(t, least), most);
    }
    Whole operator()(Vector x) const {
      const __m512 code = clamped(x);
      return {_mm512_sub_epi32(_mm512_cvtps_epi32(code), first)};
    }
  };

  // 32 or 64 thresholds and pairs of codes, in registers; see CodeTable.
  template <int kEntries>
  struct Entries {
    __m512 thresholds[kEntries / 16];
    __m512i codes[kEntries / 16];

    Entries(const float* from, const int32_t* pairs) {
      for (int i = 0; i < kEntries / 16; ++i) {
        thresholds[i] = _mm512_loadu_ps(from + 16 * i);
        codes[i] = _mm512_loadu_si512(pairs + 16 * i);
      }
    }

    // Codes in the lowest bytes.
    Whole codes_at(Whole index, Vector t) const {
      __m512 threshold = _mm512_permutex2var_ps(thresholds[0], index.w, thresholds[1]);
      __m512i code = _mm512_permutex2var_epi32(codes[0], index.w, codes[1]);
      if constexpr (kEntries == 64) {
        const __mmask16 high = _mm512_test_epi32_mask(index.w, _mm512_set1_epi32(32));
        threshold = _mm512_mask_mov_ps(
            threshold, high, _mm512_permutex2var_ps(thresholds[2], index.w, thresholds[3]));
        code = _mm512_mask_mov_epi32(code, high,
                                     _mm512_permutex2var_epi32(codes[2], index.w, codes[3]));
      }
      const __mmask16 beyond = _mm512_cmp_ps_mask(t.v, threshold, _CMP_GE_OQ);
      return {_mm512_mask_srli_epi32(code, beyond, code, 8)};
    }
  };

  static float least_lane(Vector v) { return _mm512_reduce_min_ps(v.v); }
  static float most_lane(Vector v) { return _mm512_reduce_max_ps(v.v); }
  static float sum_pairwise(Vector v) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v.v), _mm512_extractf32x8_ps(v.v, 1));
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_add_ss(t, _mm_shuffle_ps(t, t, 1)));
  }

 private:
  struct Exponential {
    __m512 p, shifted;
  };

  static Exponential exponential_of_minus(__m512 x) {
    const __m512 shift = _mm512_set1_ps(kShift);
    const __m512 product = _mm512_mul_ps(x, _mm512_set1_ps(-1.44269504088896341f));
    const __m512 shifted = _mm512_add_ps(product, shift), n = _mm512_sub_ps(shifted, shift);
    __m512 r = _mm512_fnmsub_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r);
    return {_mm512_add_ps(p, _mm512_set1_ps(1.0f)), shifted};
  }
  static Vector one_plus_exp_of_minus(Vector z) {
    const __m512 limit = _mm512_max_ps(_mm512_set1_ps(-89.0f), z.v);
    // NaN stays.
    const Exponential e = exponential_of_minus(_mm512_min_ps(_mm512_set1_ps(86.0f), limit));
    const __m512 n = _mm512_sub_ps(e.shifted, _mm512_set1_ps(kShift));
    return {_mm512_add_ps(_mm512_scalef_ps(e.p, n), _mm512_set1_ps(1.0f))};
  }
  static Vector wide_bf16(__m256i words) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16))};
  }
  __m256i narrow_bf16() const {
    const __m512i word = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(word, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(word, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    rounded = _mm512_mask_mov_epi32(rounded, is_nan(*this), _mm512_set1_epi32(0x7fc00000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
  }
  __m256i narrow_f16() const {
    return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
};

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_VECTOR_AVX512_H_
