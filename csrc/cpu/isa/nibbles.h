// Sixteen codes, two a byte, to and from bytes in a register of SSE.
#ifndef MICRONET_CPU_ISA_NIBBLES_H_
#define MICRONET_CPU_ISA_NIBBLES_H_

#include <immintrin.h>

#include <cstdint>

namespace micronet {
namespace {

// The lowest four bits of each byte, the first in the low half.
inline uint64_t nibbles_of_bytes(__m128i bytes) {
  const __m128i codes = _mm_and_si128(bytes, _mm_set1_epi8(15));
  // Even bytes once, odd bytes sixteen times, added in pairs.
  const __m128i pairs = _mm_maddubs_epi16(codes, _mm_set1_epi16(0x1001));
  return static_cast<uint64_t>(_mm_cvtsi128_si64(_mm_packus_epi16(pairs, pairs)));
}

inline __m128i bytes_of_nibbles(uint64_t word) {
  const __m128i packed = _mm_cvtsi64_si128(static_cast<long long>(word));
  const __m128i low = _mm_and_si128(packed, _mm_set1_epi8(15));
  const __m128i high = _mm_and_si128(_mm_srli_epi16(packed, 4), _mm_set1_epi8(15));
  return _mm_unpacklo_epi8(low, high);
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_NIBBLES_H_
