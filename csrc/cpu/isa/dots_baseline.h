// Sixteen sums of four products of bytes each, in plain C++. The other dots_*.h do the same.
#ifndef MICRONET_CPU_ISA_DOTS_BASELINE_H_
#define MICRONET_CPU_ISA_DOTS_BASELINE_H_

#include <cstdint>
#include <cstring>

#include "cpu/isa/transpose.h"

namespace micronet {
namespace {

struct Dots {
  int32_t of[16];

  // How large a block of sums the registers hold: pixels, and sixteens of output channels.
  static constexpr int kPixels = 2, kPanels = 2;
  static constexpr bool kReadsSome = false;  // whether add_some_pixels is there

  struct Weights {
    const int8_t* w;
  };

  static Dots zero() { return {}; }
  static Dots load(const int32_t* p) {
    Dots r;
    for (int l = 0; l < 16; ++l) r.of[l] = p[l];
    return r;
  }
  // Four weights of each of sixteen output channels, one channel after the other.
  static Weights weights(const int8_t* p) { return {p}; }
  static const uint8_t* four(const uint8_t* p) { return p; }

  // Where kWide is false, pairs of products fit 16 bits.
  template <bool kWide>
  void add(const uint8_t* x, Weights weights) {
    for (int l = 0; l < 16; ++l) {
      for (int k = 0; k < 4; ++k) of[l] += x[k] * weights.w[4 * l + k];
    }
  }
  // Plus sixteen numbers times one.
  Dots plus(const int32_t* p, int32_t factor) const {
    Dots r = *this;
    for (int l = 0; l < 16; ++l) r.of[l] += p[l] * factor;
    return r;
  }
  // The other way round: four weights of one channel, and four codes of each of sixteen pixels.
  static constexpr int kChains = 1;  // of sums that do not wait for each other
  static Weights signed_four(const int32_t& four) {
    return {reinterpret_cast<const int8_t*>(&four)};
  }
  template <bool kWide>
  void add_pixels(const uint8_t* x, Weights four) {
    for (int l = 0; l < 16; ++l) {
      for (int k = 0; k < 4; ++k) of[l] += x[4 * l + k] * four.w[k];
    }
  }
  friend Dots operator+(Dots a, const Dots& b) {
    for (int l = 0; l < 16; ++l) a.of[l] += b.of[l];
    return a;
  }
  // `streamed` asks for a write past the caches, where p is aligned for it.
  template <typename T>
  void store(T* p, int count, bool) const {
    for (int l = 0; l < count; ++l) p[l] = static_cast<T>(of[l]);
  }
  Vector value() const {
    return Vector::each([&](int l) { return static_cast<float>(of[l]); });
  }
};

// Sixteen sums of pairs of products of bytes and weights of 16 bits.
struct Longs {
  static constexpr int kLanes = 16;
  using Weight = int16_t;
  int32_t of[kLanes];

  struct Weights {
    const int16_t* w;
  };

  static Longs start(const int32_t* p) {
    Longs r;
    for (int l = 0; l < kLanes; ++l) r.of[l] = p[l];
    return r;
  }
  // Two weights of each lane.
  static Weights weights(const int16_t* p) { return {p}; }
  void add(const uint8_t* x, Weights two) {
    for (int l = 0; l < kLanes; ++l) {
      of[l] += x[2 * l] * two.w[2 * l] + x[2 * l + 1] * two.w[2 * l + 1];
    }
  }
  template <typename T>
  void store(T* p, int count) const {
    for (int l = 0; l < count; ++l) p[l] = static_cast<T>(of[l]);
  }
  void store_values(const float* ratio, float* p, int count) const {
    for (int l = 0; l < count; ++l) p[l] = static_cast<float>(of[l]) * ratio[l];
  }
};

// 32 sums of pairs of products of bytes; they fit 16 bits in the end, and wrap on the way.
struct Shorts {
  static constexpr int kLanes = 32;
  using Weight = int8_t;
  int16_t of[kLanes];

  struct Weights {
    const int8_t* w;
  };

  static Shorts start(const int32_t* p) {
    Shorts r;
    for (int l = 0; l < kLanes; ++l) r.of[l] = static_cast<int16_t>(p[l]);
    return r;
  }
  // Two weights of each lane.
  static Weights weights(const int8_t* p) { return {p}; }
  void add(const uint8_t* x, Weights two) {
    for (int l = 0; l < kLanes; ++l) {
      const int sum = x[2 * l] * two.w[2 * l] + x[2 * l + 1] * two.w[2 * l + 1];
      of[l] = static_cast<int16_t>(of[l] + sum);
    }
  }
  // Of 32 channels.
  static void pair(const uint8_t* left, const uint8_t* right, uint8_t* pairs) {
    for (int i = 0; i < 32; ++i) {
      pairs[2 * i] = left[i];
      pairs[2 * i + 1] = right[i];
    }
  }
  // The lower codes of each pair of bytes and above them the upper ones, of `count` <= 16 bytes.
  static void interleave(const uint8_t* a, const uint8_t* b, int count, uint8_t* pairs) {
    for (int i = 0; i < count; ++i) {
      const uint32_t both = a[i] | static_cast<uint32_t>(b[i]) << 8;
      const uint32_t spread = (both & 0x0f0fu) | (both << 12 & 0x0f0f0000u);
      std::memcpy(pairs + 4 * i, &spread, 4);
    }
  }
  void store(int16_t* p, int count) const {
    for (int l = 0; l < count; ++l) p[l] = of[l];
  }
  void store_values(const float* ratio, float* p, int count) const {
    for (int l = 0; l < count; ++l) p[l] = static_cast<float>(of[l]) * ratio[l];
  }
};

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_DOTS_BASELINE_H_
