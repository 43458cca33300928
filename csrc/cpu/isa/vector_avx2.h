// Sixteen floats in two AVX2 registers (with F16C). See vector_baseline.h.
#ifndef MICRONET_CPU_ISA_VECTOR_AVX2_H_
#define MICRONET_CPU_ISA_VECTOR_AVX2_H_

#include <immintrin.h>

#include <cstdint>

#include "cpu/half.h"
#include "cpu/isa/lanes.h"
#include "cpu/isa/nibbles.h"

namespace micronet {
namespace {

struct Vector {
  __m256 a, b;  // lanes 0 to 7, 8 to 15

  struct Mask {
    __m256 a, b;  // all ones where it holds
  };
  struct Whole {
    __m256i a, b;
  };
  // Vectors that are summed at a time: the registers hold them and one more.
  static constexpr int kMostSums = 6;
  static constexpr bool kLooksUp = true, kIsFinisher = false;

  static Vector all(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }

  static Vector load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Vector load(const BFloat16* p) { return {wide_bf16(p), wide_bf16(p + 8)}; }
  static Vector load(const Float16* p) { return {wide_f16(p), wide_f16(p + 8)}; }

  template <typename T>
  static Vector load_some(const T* p, int count) {
    return load_lanes_of<Vector, T>(p, count);
  }

  void store(float* p) const {
    _mm256_storeu_ps(p, a);
    _mm256_storeu_ps(p + 8, b);
  }
  void store(BFloat16* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16());
  }
  void store(Float16* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_f16()); }

  template <typename T>
  void store_some(T* p, int count) const {
    T lanes[16];
    store(lanes);
    for (int l = 0; l < count; ++l) p[l] = lanes[l];
  }

  void stream(float* p) const {
    _mm256_stream_ps(p, a);
    _mm256_stream_ps(p + 8, b);
  }
  void stream(BFloat16* p) const {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow_bf16());
  }
  void stream(Float16* p) const {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow_f16());
  }
  static void fence() { _mm_sfence(); }

  friend Vector operator+(Vector x, Vector y) {
    return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
  }
  friend Vector operator-(Vector x, Vector y) {
    return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
  }
  friend Vector operator*(Vector x, Vector y) {
    return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
  }
  friend Vector operator/(Vector x, Vector y) {
    return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
  }
  static Vector fma(Vector x, Vector y, Vector z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }

  static Vector min(Vector x, Vector y) {
    return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
  }
  static Vector max(Vector x, Vector y) {
    return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
  }
  static Vector round(Vector x) {
    constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, kMode), _mm256_round_ps(x.b, kMode)};
  }

  static Mask at_most(Vector x, Vector y) {
    return {_mm256_cmp_ps(x.a, y.a, _CMP_LE_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LE_OQ)};
  }
  static Mask below(Vector x, Vector y) {
    return {_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)};
  }
  static Mask is_nan(Vector x) {
    return {_mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q), _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q)};
  }
  static Mask is_finite(Vector x) {
    const Vector zero = x * all(0.0f);  // NaN for NaN and for infinity
    return {_mm256_cmp_ps(zero.a, zero.a, _CMP_ORD_Q), _mm256_cmp_ps(zero.b, zero.b, _CMP_ORD_Q)};
  }
  static Mask both(Mask x, Mask y) { return {_mm256_and_ps(x.a, y.a), _mm256_and_ps(x.b, y.b)}; }
  static Mask either(Mask x, Mask y) { return {_mm256_or_ps(x.a, y.a), _mm256_or_ps(x.b, y.b)}; }
  static Mask none() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Mask from_bits(uint32_t bits) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return {spread(bits, lane), spread(bits >> 8, lane)};
  }
  static uint32_t bits(Mask m) {
    return static_cast<uint32_t>(_mm256_movemask_ps(m.a) | _mm256_movemask_ps(m.b) << 8);
  }
  static Vector select(Mask m, Vector x, Vector y) {
    return {_mm256_blendv_ps(y.a, x.a, m.a), _mm256_blendv_ps(y.b, x.b, m.b)};
  }
  static Vector keep(Mask m, Vector x) {
    return {_mm256_and_ps(m.a, x.a), _mm256_and_ps(m.b, x.b)};
  }

  static Whole whole(Vector x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
  static Vector look_up(const float* table, Whole index) {
    const __m256 low = _mm256_loadu_ps(table), high = _mm256_loadu_ps(table + 8);
    return {look_up(low, high, index.a), look_up(low, high, index.b)};
  }
  // table at sixteen bytes.
  static Vector gather(const float* table, const uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_i32gather_ps(table, _mm256_cvtepu8_epi32(bytes), 4),
            _mm256_i32gather_ps(table, _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)), 4)};
  }
  static void store_bytes(Whole w, uint8_t* p) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes(w));
  }
  static void store_bytes_some(Whole w, uint8_t* p, int count) {
    uint8_t bytes[16];
    store_bytes(w, bytes);
    for (int l = 0; l < count; ++l) p[l] = bytes[l];
  }
  static uint64_t nibbles(Whole w) { return nibbles_of_bytes(bytes(w)); }
  static Vector from_nibbles(uint64_t word) { return from_bytes(bytes_of_nibbles(word)); }
  static Vector from_bytes(const uint8_t* p) {
    return from_bytes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  // Whole numbers, or floats.
  template <typename T>
  static Vector load_whole(const T* p, int count) {
    return load_lanes_of<Vector, float>(p, count);
  }
  static float least_lane(Vector x) {
    const __m256 eight = _mm256_min_ps(x.a, x.b);
    __m128 t = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    t = _mm_min_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_min_ss(t, _mm_shuffle_ps(t, t, 1)));
  }
  static float most_lane(Vector x) {
    const __m256 eight = _mm256_max_ps(x.a, x.b);
    __m128 t = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    t = _mm_max_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_max_ss(t, _mm_shuffle_ps(t, t, 1)));
  }
  static float sum_pairwise(Vector x) {
    const __m256 eight = _mm256_add_ps(x.a, x.b);
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_add_ss(t, _mm_shuffle_ps(t, t, 1)));
  }

 private:
  static Vector from_bytes(__m128i all) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(all)),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(all, 8)))};
  }
  static __m256 wide_bf16(const BFloat16* p) {
    const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16));
  }
  static __m256 wide_f16(const Float16* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static __m256i round_bf16(__m256 v) {
    const __m256i word = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(word, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(word, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    const __m256 rounded =
        _mm256_blendv_ps(_mm256_castsi256_ps(sum), nan, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_castps_si256(rounded), 16);
  }
  // Packing works within halves of a register, so its quarters are put back in order.
  static __m256i in_order(__m256i quarters) { return _mm256_permute4x64_epi64(quarters, 0xd8); }
  __m256i narrow_bf16() const {
    return in_order(_mm256_packus_epi32(round_bf16(a), round_bf16(b)));
  }
  __m256i narrow_f16() const {
    constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return _mm256_setr_m128i(_mm256_cvtps_ph(a, kMode), _mm256_cvtps_ph(b, kMode));
  }
  static __m256 spread(uint32_t bits, __m256i lane) {
    const __m256i word = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(word, lane));
  }
  // The three lowest bits choose within a half of the table, the fourth, as a sign, the half.
  static __m256 look_up(__m256 low, __m256 high, __m256i index) {
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index),
                            _mm256_permutevar8x32_ps(high, index),
                            _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
  }
  static __m128i bytes(Whole w) {
    const __m256i low = _mm256_set1_epi32(255);
    const __m256i words =
        in_order(_mm256_packus_epi32(_mm256_and_si256(w.a, low), _mm256_and_si256(w.b, low)));
    return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }
};

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_VECTOR_AVX2_H_
