// Sixteen sums of four products of bytes each, in four NEON registers, with dot products where the
// translation unit allows them. See dots_baseline.h.
#ifndef MICRONET_CPU_ISA_DOTS_NEON_H_
#define MICRONET_CPU_ISA_DOTS_NEON_H_

#include <cstring>

#include "cpu/isa/lanes.h"
#include "cpu/isa/transpose.h"
#include "cpu/isa/vector_neon.h"

namespace micronet {
namespace {

inline uint8x16_t four_times(int32_t four) { return vreinterpretq_u8_s32(vdupq_n_s32(four)); }

struct Dots {
  int32x4_t v[4];  // channels 0 to 3, 4 to 7, ...
#ifdef __ARM_FEATURE_DOTPROD
  // What the sums are too large by: both factors of a dot product have one sign, so that weights,
  // or codes, are 128 off.
  int32x4_t beyond;
#endif

  static constexpr int kPixels = 2, kPanels = 2;
  static constexpr bool kReadsSome = false;
  static constexpr int kChains = 1;
  static constexpr int kLanes = 16;
  using Lane = int32_t;

  static Dots zero() { return all(vdupq_n_s32(0)); }
  static Dots load(const int32_t* p) {
    Dots r = zero();
    for (int q = 0; q < 4; ++q) r.v[q] = vld1q_s32(p + 4 * q);
    return r;
  }
  static uint8x16_t four(const uint8_t* p) {
    int32_t word;
    std::memcpy(&word, p, 4);
    return four_times(word);
  }

#ifdef __ARM_FEATURE_DOTPROD
  struct Weights {
    uint8x16_t w[4];  // each 128 more than it is
  };
  static Weights weights(const int8_t* p) {
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(p);
    const uint8x16_t sign = vdupq_n_u8(128);
    return {{veorq_u8(vld1q_u8(bytes), sign), veorq_u8(vld1q_u8(bytes + 16), sign),
             veorq_u8(vld1q_u8(bytes + 32), sign), veorq_u8(vld1q_u8(bytes + 48), sign)}};
  }
  template <bool kWide>
  void add(uint8x16_t x, const Weights& weights) {
    for (int q = 0; q < 4; ++q) v[q] = unsigned_dot(v[q], x, weights.w[q]);
    beyond = unsigned_dot(beyond, x, vdupq_n_u8(128));
  }
  static int8x16_t signed_four(int32_t four) { return vreinterpretq_s8_u8(four_times(four)); }
  template <bool kWide>
  void add_pixels(const uint8_t* x, int8x16_t four) {
    for (int q = 0; q < 4; ++q) {
      const uint8x16_t below = veorq_u8(vld1q_u8(x + 16 * q), vdupq_n_u8(128));
      v[q] = vdotq_s32(v[q], vreinterpretq_s8_u8(below), four);
    }
    beyond = vdotq_s32(beyond, vdupq_n_s8(-128), four);
  }
#else
  struct Weights {
    int8x16_t w[4];
  };
  static Weights weights(const int8_t* p) {
    return {{vld1q_s8(p), vld1q_s8(p + 16), vld1q_s8(p + 32), vld1q_s8(p + 48)}};
  }
  template <bool kWide>
  void add(uint8x16_t x, const Weights& weights) {
    for (int q = 0; q < 4; ++q) v[q] = sum<kWide>(v[q], x, weights.w[q]);
  }
  static int8x16_t signed_four(int32_t four) { return vreinterpretq_s8_u8(four_times(four)); }
  template <bool kWide>
  void add_pixels(const uint8_t* x, int8x16_t four) {
    for (int q = 0; q < 4; ++q) v[q] = sum<kWide>(v[q], vld1q_u8(x + 16 * q), four);
  }
#endif

  // Plus sixteen numbers times one.
  Dots plus(const int32_t* p, int32_t factor) const {
    Dots r = *this;
    for (int q = 0; q < 4; ++q) r.v[q] = vmlaq_n_s32(v[q], vld1q_s32(p + 4 * q), factor);
    return r;
  }
  friend Dots operator+(Dots x, const Dots& y) {
    for (int q = 0; q < 4; ++q) x.v[q] = vaddq_s32(x.v[q], y.v[q]);
#ifdef __ARM_FEATURE_DOTPROD
    x.beyond = vaddq_s32(x.beyond, y.beyond);
#endif
    return x;
  }
  template <typename T>
  void store(T* p, int count, bool) const {
    store_lanes_of(*this, p, count);
  }
  void put(int32_t* lanes) const {
    const Dots sums = settled();
    for (int q = 0; q < 4; ++q) vst1q_s32(lanes + 4 * q, sums.v[q]);
  }
  Vector value() const {
    const Dots sums = settled();
    return Vector::each([&](int q) { return vcvtq_f32_s32(sums.v[q]); });
  }

 private:
#ifdef __ARM_FEATURE_DOTPROD
  static Dots all(int32x4_t sum) { return {{sum, sum, sum, sum}, sum}; }
  Dots settled() const {
    Dots r = zero();
    for (int q = 0; q < 4; ++q) r.v[q] = vsubq_s32(v[q], beyond);
    return r;
  }
  static int32x4_t unsigned_dot(int32x4_t sum, uint8x16_t x, uint8x16_t w) {
    return vreinterpretq_s32_u32(vdotq_u32(vreinterpretq_u32_s32(sum), x, w));
  }
#else
  static Dots all(int32x4_t sum) { return {{sum, sum, sum, sum}}; }
  Dots settled() const { return *this; }
  template <bool kWide>
  static int32x4_t sum(int32x4_t sums, uint8x16_t x, int8x16_t w) {
    const int16x8_t x0 = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x)));
    const int16x8_t x1 = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(x)));
    const int16x8_t w0 = vmovl_s8(vget_low_s8(w)), w1 = vmovl_s8(vget_high_s8(w));
    if constexpr (kWide) {
      return vaddq_s32(sums, vpaddq_s32(wide_pairs(x0, w0), wide_pairs(x1, w1)));
    }
    return vpadalq_s16(sums, vpaddq_s16(vmulq_s16(x0, w0), vmulq_s16(x1, w1)));
  }
  static int32x4_t wide_pairs(int16x8_t x, int16x8_t w) {
    return vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(w)), vmull_high_s16(x, w));
  }
#endif
};

struct LongRegisters {
  using Weight = int16_t;
  int32x4_t v[4];

  // The first weight of each pair, and the second.
  struct Weights {
    int16x8x2_t w[2];
  };

  static LongRegisters start(const int32_t* p) {
    return {{vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)}};
  }
  static Weights weights(const int16_t* p) { return {{vld2q_s16(p), vld2q_s16(p + 16)}}; }
  void add(const uint8_t* x, const Weights& two) {
    const uint8x16x2_t pairs = vld2q_u8(x);
    for (int i = 0; i < 2; ++i) {
      add_half(0, vmovl_u8(vget_low_u8(pairs.val[i])), two.w[0].val[i]);
      add_half(2, vmovl_u8(vget_high_u8(pairs.val[i])), two.w[1].val[i]);
    }
  }
  void put(int32_t* lanes) const {
    for (int q = 0; q < 4; ++q) vst1q_s32(lanes + 4 * q, v[q]);
  }

 private:
  void add_half(int q, uint16x8_t x, int16x8_t w) {
    const int16x8_t codes = vreinterpretq_s16_u16(x);
    v[q] = vmlal_s16(v[q], vget_low_s16(codes), vget_low_s16(w));
    v[q + 1] = vmlal_high_s16(v[q + 1], codes, w);
  }
};

using Longs = ByLanes<LongRegisters, int32_t, 16>;

struct ShortRegisters {
  using Weight = int8_t;
  int16x8_t v[4];

  // The first weights of eight pairs, and the second, four times.
  struct Weights {
    int16x8_t first[4], second[4];
  };

  static ShortRegisters start(const int32_t* p) {
    ShortRegisters r;
    for (int q = 0; q < 4; ++q) {
      r.v[q] = vcombine_s16(vmovn_s32(vld1q_s32(p + 8 * q)), vmovn_s32(vld1q_s32(p + 8 * q + 4)));
    }
    return r;
  }
  static Weights weights(const int8_t* p) {
    Weights two;
    for (int half = 0; half < 2; ++half) {
      const int8x16x2_t pairs = vld2q_s8(p + 32 * half);
      two.first[2 * half] = vmovl_s8(vget_low_s8(pairs.val[0]));
      two.first[2 * half + 1] = vmovl_high_s8(pairs.val[0]);
      two.second[2 * half] = vmovl_s8(vget_low_s8(pairs.val[1]));
      two.second[2 * half + 1] = vmovl_high_s8(pairs.val[1]);
    }
    return two;
  }
  void add(const uint8_t* x, const Weights& two) {
    for (int half = 0; half < 2; ++half) {
      const uint8x16x2_t pairs = vld2q_u8(x + 32 * half);
      add_eight(2 * half, vmovl_u8(vget_low_u8(pairs.val[0])), two.first);
      add_eight(2 * half + 1, vmovl_high_u8(pairs.val[0]), two.first);
      add_eight(2 * half, vmovl_u8(vget_low_u8(pairs.val[1])), two.second);
      add_eight(2 * half + 1, vmovl_high_u8(pairs.val[1]), two.second);
    }
  }
  // Of 32 channels.
  static void pair(const uint8_t* left, const uint8_t* right, uint8_t* pairs) {
    for (int i = 0; i < 32; i += 16) {
      vst2q_u8(pairs + 2 * i, {{vld1q_u8(left + i), vld1q_u8(right + i)}});
    }
  }
  static void interleave_sixteen(const uint8_t* left, const uint8_t* right, uint8_t* pairs) {
    const uint8x16_t l = vld1q_u8(left), r = vld1q_u8(right), low = vdupq_n_u8(15);
    vst4q_u8(pairs, {{vandq_u8(l, low), vandq_u8(r, low), vshrq_n_u8(l, 4), vshrq_n_u8(r, 4)}});
  }
  void put(int16_t* lanes) const {
    for (int q = 0; q < 4; ++q) vst1q_s16(lanes + 8 * q, v[q]);
  }

 private:
  // Modulo 2^16, as sums are on the way.
  void add_eight(int q, uint16x8_t x, const int16x8_t* w) {
    v[q] = vmlaq_s16(v[q], vreinterpretq_s16_u16(x), w[q]);
  }
};

using Shorts = ByLanes<ShortRegisters, int16_t, 32>;

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_DOTS_NEON_H_
