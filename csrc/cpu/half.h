// bfloat16 and float16 as words, and their exact widening and correctly rounded narrowing.
//
// Everything here has internal linkage, since it is compiled for several instruction sets.
#ifndef MICRONET_CPU_HALF_H_
#define MICRONET_CPU_HALF_H_

#include <cstdint>
#include <cstring>

namespace micronet {

struct BFloat16 {
  uint16_t word;
};
struct Float16 {
  uint16_t word;
};

static inline uint32_t word_of(float v) {
  uint32_t word;
  std::memcpy(&word, &v, sizeof(word));
  return word;
}

static inline float float_of(uint32_t word) {
  float v;
  std::memcpy(&v, &word, sizeof(v));
  return v;
}

static inline float widen(float v) { return v; }

static inline float widen(BFloat16 v) { return float_of(static_cast<uint32_t>(v.word) << 16); }

// Scaling by 2^112 moves the exponent's bias from 15 to 127, exactly and for subnormals too.
static inline float widen(Float16 v) {
  const uint32_t sign = static_cast<uint32_t>(v.word & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(v.word & 0x7fffu) << 13;
  const bool finite = (v.word & 0x7c00u) != 0x7c00u;
  const uint32_t value = finite ? word_of(float_of(magnitude) * 0x1p112f) : magnitude | 0x7f800000u;
  return float_of(value | sign);
}

static inline void narrow(float v, float* out) { *out = v; }

static inline void narrow(float v, BFloat16* out) {
  const uint32_t word = word_of(v);
  const uint32_t rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
  out->word = static_cast<uint16_t>(v != v ? 0x7fc0u : rounded);
}

// Adding a power of two whose last place is the last place of the result rounds there, to even.
static inline void narrow(float v, Float16* out) {
  const uint32_t word = word_of(v), sign = (word >> 16) & 0x8000u, magnitude = word & 0x7fffffffu;
  uint32_t result;
  if (magnitude > 0x7f800000u) {
    result = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // 65520 and more round to infinity
    result = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: subnormal, last place 2^-24
    result = word_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    result = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  }
  out->word = static_cast<uint16_t>(result | sign);
}

}  // namespace micronet

#endif  // MICRONET_CPU_HALF_H_
