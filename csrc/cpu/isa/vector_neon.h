// Sixteen floats in four NEON registers. See vector_baseline.h.
#ifndef MICRONET_CPU_ISA_VECTOR_NEON_H_
#define MICRONET_CPU_ISA_VECTOR_NEON_H_

#include <arm_neon.h>

#include <cstdint>

#include "cpu/half.h"
#include "cpu/isa/lanes.h"

namespace micronet {
namespace {

struct Vector {
  float32x4_t v[4];  // lanes 0 to 3, 4 to 7, ...

  struct Mask {
    uint32x4_t m[4];  // all ones where it holds
  };
  struct Whole {
    int32x4_t w[4];
  };
  // Vectors that are summed at a time: the registers hold them and one more.
  static constexpr int kMostSums = 6;
  static constexpr bool kLooksUp = true, kIsFinisher = false;

  // The quarters that operation(quarter) gives.
  template <typename Operation>
  static Vector each(const Operation& operation) {
    return {{operation(0), operation(1), operation(2), operation(3)}};
  }
  template <typename Condition>
  static Mask where(const Condition& condition) {
    return {{condition(0), condition(1), condition(2), condition(3)}};
  }

  static Vector all(float v) {
    return each([&](int) { return vdupq_n_f32(v); });
  }

  static Vector load(const float* p) {
    return each([&](int q) { return vld1q_f32(p + 4 * q); });
  }
  static Vector load(const BFloat16* p) {
    return each([&](int q) { return vreinterpretq_f32_u32(vshll_n_u16(words(p + 4 * q), 16)); });
  }
  static Vector load(const Float16* p) {
    return each([&](int q) { return vcvt_f32_f16(vreinterpret_f16_u16(words(p + 4 * q))); });
  }

  template <typename T>
  static Vector load_some(const T* p, int count) {
    return load_lanes_of<Vector, T>(p, count);
  }

  void store(float* p) const {
    for (int q = 0; q < 4; ++q) vst1q_f32(p + 4 * q, v[q]);
  }
  void store(BFloat16* p) const {
    for (int q = 0; q < 4; ++q) put_words(p + 4 * q, narrow_bf16(v[q]));
  }
  void store(Float16* p) const {
    for (int q = 0; q < 4; ++q) put_words(p + 4 * q, vreinterpret_u16_f16(vcvt_f16_f32(v[q])));
  }

  template <typename T>
  void store_some(T* p, int count) const {
    T lanes[16];
    store(lanes);
    for (int l = 0; l < count; ++l) p[l] = lanes[l];
  }

  // The processor sees by itself that whole lines are written.
  template <typename T>
  void stream(T* p) const {
    store(p);
  }
  static void fence() {}

  friend Vector operator+(Vector x, Vector y) {
    return each([&](int q) { return vaddq_f32(x.v[q], y.v[q]); });
  }
  friend Vector operator-(Vector x, Vector y) {
    return each([&](int q) { return vsubq_f32(x.v[q], y.v[q]); });
  }
  friend Vector operator*(Vector x, Vector y) {
    return each([&](int q) { return vmulq_f32(x.v[q], y.v[q]); });
  }
  friend Vector operator/(Vector x, Vector y) {
    return each([&](int q) { return vdivq_f32(x.v[q], y.v[q]); });
  }
  static Vector fma(Vector x, Vector y, Vector z) {
    return each([&](int q) { return vfmaq_f32(z.v[q], x.v[q], y.v[q]); });
  }

  // The machine's own minimum is NaN where either is.
  static Vector min(Vector x, Vector y) {
    return each([&](int q) { return vbslq_f32(vcltq_f32(x.v[q], y.v[q]), x.v[q], y.v[q]); });
  }
  static Vector max(Vector x, Vector y) {
    return each([&](int q) { return vbslq_f32(vcgtq_f32(x.v[q], y.v[q]), x.v[q], y.v[q]); });
  }
  static Vector round(Vector x) {
    return each([&](int q) { return vrndnq_f32(x.v[q]); });
  }

  static Mask at_most(Vector x, Vector y) {
    return where([&](int q) { return vcleq_f32(x.v[q], y.v[q]); });
  }
  static Mask below(Vector x, Vector y) {
    return where([&](int q) { return vcltq_f32(x.v[q], y.v[q]); });
  }
  static Mask is_nan(Vector x) {
    return where([&](int q) { return vmvnq_u32(vceqq_f32(x.v[q], x.v[q])); });
  }
  static Mask is_finite(Vector x) {
    const float32x4_t infinity = vreinterpretq_f32_u32(vdupq_n_u32(0x7f800000u));
    return where([&](int q) { return vcaltq_f32(x.v[q], infinity); });
  }
  static Mask both(Mask x, Mask y) {
    return where([&](int q) { return vandq_u32(x.m[q], y.m[q]); });
  }
  static Mask either(Mask x, Mask y) {
    return where([&](int q) { return vorrq_u32(x.m[q], y.m[q]); });
  }
  static Mask none() {
    return where([](int) { return vdupq_n_u32(0); });
  }
  static Mask from_bits(uint32_t bits) {
    const uint32x4_t word = vdupq_n_u32(bits);
    return where([&](int q) { return vtstq_u32(word, lane_bits(q)); });
  }
  static uint32_t bits(Mask mask) {
    uint32x4_t all = vandq_u32(mask.m[0], lane_bits(0));
    for (int q = 1; q < 4; ++q) all = vorrq_u32(all, vandq_u32(mask.m[q], lane_bits(q)));
    return vaddvq_u32(all);
  }
  static Vector select(Mask mask, Vector x, Vector y) {
    return each([&](int q) { return vbslq_f32(mask.m[q], x.v[q], y.v[q]); });
  }
  static Vector keep(Mask mask, Vector x) {
    return each([&](int q) {
      return vreinterpretq_f32_u32(vandq_u32(mask.m[q], vreinterpretq_u32_f32(x.v[q])));
    });
  }

  static Whole whole(Vector x) {
    return {{vcvtnq_s32_f32(x.v[0]), vcvtnq_s32_f32(x.v[1]), vcvtnq_s32_f32(x.v[2]),
             vcvtnq_s32_f32(x.v[3])}};
  }
  // The four bytes of an entry are found by their places.
  static Vector look_up(const float* table, Whole index) {
    const uint8_t* p = reinterpret_cast<const uint8_t*>(table);
    const uint8x16x4_t entries = {
        {vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
    return each([&](int q) {
      const uint32x4_t lowest = vandq_u32(vreinterpretq_u32_s32(index.w[q]), vdupq_n_u32(15));
      const uint32x4_t places =
          vmlaq_u32(vdupq_n_u32(0x03020100u), lowest, vdupq_n_u32(0x04040404u));
      return vreinterpretq_f32_u8(vqtbl4q_u8(entries, vreinterpretq_u8_u32(places)));
    });
  }
  // table at sixteen bytes.
  static Vector gather(const float* table, const uint8_t* p) {
    float lanes[16];
    for (int l = 0; l < 16; ++l) lanes[l] = table[p[l]];
    return load(lanes);
  }
  static void store_bytes(Whole w, uint8_t* p) { vst1q_u8(p, bytes(w)); }
  static void store_bytes_some(Whole w, uint8_t* p, int count) {
    uint8_t all[16];
    store_bytes(w, all);
    for (int l = 0; l < count; ++l) p[l] = all[l];
  }
  static uint64_t nibbles(Whole w) {
    const uint8x16_t codes = vandq_u8(bytes(w), vdupq_n_u8(15));
    // Words of two codes, the upper one brought down to the lower one's byte.
    const uint16x8_t pairs = vreinterpretq_u16_u8(codes);
    return vget_lane_u64(vreinterpret_u64_u8(vmovn_u16(vsraq_n_u16(pairs, pairs, 4))), 0);
  }
  static Vector from_nibbles(uint64_t word) {
    const uint8x8_t packed = vcreate_u8(word);
    const uint8x8_t low = vand_u8(packed, vdup_n_u8(15)), high = vshr_n_u8(packed, 4);
    return from_bytes(vcombine_u8(vzip1_u8(low, high), vzip2_u8(low, high)));
  }
  static Vector from_bytes(const uint8_t* p) { return from_bytes(vld1q_u8(p)); }
  // Whole numbers, or floats.
  template <typename T>
  static Vector load_whole(const T* p, int count) {
    return load_lanes_of<Vector, float>(p, count);
  }
  static float least_lane(Vector x) {
    return vminnmvq_f32(vminnmq_f32(vminnmq_f32(x.v[0], x.v[1]), vminnmq_f32(x.v[2], x.v[3])));
  }
  static float most_lane(Vector x) {
    return vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(x.v[0], x.v[1]), vmaxnmq_f32(x.v[2], x.v[3])));
  }
  static float sum_pairwise(Vector x) {
    const float32x4_t four = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
  }

 private:
  template <typename Half>
  static uint16x4_t words(const Half* p) {
    return vld1_u16(&p->word);
  }
  template <typename Half>
  static void put_words(Half* p, uint16x4_t words) {
    vst1_u16(&p->word, words);
  }
  static uint16x4_t narrow_bf16(float32x4_t v) {
    const uint32x4_t word = vreinterpretq_u32_f32(v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(word, 16), vdupq_n_u32(1));
    const uint32x4_t sum = vaddq_u32(word, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), sum, vdupq_n_u32(0x7fc00000u)), 16);
  }
  static uint32x4_t lane_bits(int quarter) {
    constexpr uint32_t kBits[4] = {1, 2, 4, 8};
    return vshlq_u32(vld1q_u32(kBits), vdupq_n_s32(4 * quarter));
  }
  static Vector from_bytes(uint8x16_t all) {
    const uint16x8_t low = vmovl_u8(vget_low_u8(all)), high = vmovl_u8(vget_high_u8(all));
    return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))),
             vcvtq_f32_u32(vmovl_u16(vget_high_u16(low))),
             vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))),
             vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)))}};
  }
  static uint8x16_t bytes(Whole w) {
    const auto eight = [&](int q) {
      return vcombine_s16(vmovn_s32(w.w[q]), vmovn_s32(w.w[q + 1]));
    };
    return vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(eight(0)), vmovn_s16(eight(2))));
  }
};

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_VECTOR_NEON_H_
