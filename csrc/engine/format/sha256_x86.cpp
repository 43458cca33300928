// The rounds of SHA-256 by the instructions that x86 has for them. Nothing is included that other
// units might share: this one is compiled for those processors alone.

#ifdef MICRONET_X86

#include <immintrin.h>

#include "engine/format/sha256_blocks.h"

namespace micronet::engine {
namespace {

__m128i load(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }

// Four rounds; the state lies as the instructions want it, words a, b, e, f and c, d, g, h.
void four_rounds(__m128i added, __m128i* abef, __m128i* cdgh) {
  *cdgh = _mm_sha256rnds2_epu32(*cdgh, *abef, added);
  *abef = _mm_sha256rnds2_epu32(*abef, *cdgh, _mm_shuffle_epi32(added, 0x0e));
}

void add_block(const uint8_t* block, __m128i* abef, __m128i* cdgh) {
  const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  const __m128i abef_before = *abef, cdgh_before = *cdgh;
  __m128i w[4];
  for (int i = 0; i < 4; ++i) w[i] = _mm_shuffle_epi8(load(block + 16 * i), big_endian);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    __m128i& four = w[i % 4];
    four_rounds(_mm_add_epi32(four, load(kSha256Rounds + 4 * i)), abef, cdgh);
    if (i >= 12) continue;
    // The words that come sixteen later.
    const __m128i second = w[(i + 1) % 4], third = w[(i + 2) % 4], fourth = w[(i + 3) % 4];
    four = _mm_sha256msg1_epu32(four, second);
    four = _mm_add_epi32(four, _mm_alignr_epi8(fourth, third, 4));
    four = _mm_sha256msg2_epu32(four, fourth);
  }
  *abef = _mm_add_epi32(*abef, abef_before);
  *cdgh = _mm_add_epi32(*cdgh, cdgh_before);
}

}  // namespace

void add_blocks_by_sha_ni(uint32_t* state, const uint8_t* blocks, size_t count) {
  const __m128i badc = _mm_shuffle_epi32(load(state), 0xb1);
  const __m128i hgfe = _mm_shuffle_epi32(load(state + 4), 0x1b);
  __m128i abef = _mm_alignr_epi8(badc, hgfe, 8), cdgh = _mm_blend_epi16(hgfe, badc, 0xf0);
  for (size_t i = 0; i < count; ++i) add_block(blocks + 64 * i, &abef, &cdgh);
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

}  // namespace micronet::engine

#endif  // MICRONET_X86
