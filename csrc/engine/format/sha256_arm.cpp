// The rounds of SHA-256 by the instructions that 64-bit ARM has for them. Nothing is included that
// other units might share: this one is compiled for those processors alone.

#ifdef MICRONET_ARM64

#include <arm_neon.h>

#include "engine/format/sha256_blocks.h"

namespace micronet::engine {
namespace {

void add_block(const uint8_t* block, uint32x4_t* abcd, uint32x4_t* efgh) {
  const uint32x4_t abcd_before = *abcd, efgh_before = *efgh;
  uint32x4_t w[4];
  for (int i = 0; i < 4; ++i) w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(block + 16 * i)));
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    uint32x4_t& four = w[i % 4];
    const uint32x4_t added = vaddq_u32(four, vld1q_u32(kSha256Rounds + 4 * i)), old = *abcd;
    *abcd = vsha256hq_u32(old, *efgh, added);
    *efgh = vsha256h2q_u32(*efgh, old, added);
    if (i >= 12) continue;
    // The words that come sixteen later.
    const uint32x4_t second = w[(i + 1) % 4], third = w[(i + 2) % 4], fourth = w[(i + 3) % 4];
    four = vsha256su1q_u32(vsha256su0q_u32(four, second), third, fourth);
  }
  *abcd = vaddq_u32(*abcd, abcd_before);
  *efgh = vaddq_u32(*efgh, efgh_before);
}

}  // namespace

void add_blocks_by_sha2(uint32_t* state, const uint8_t* blocks, size_t count) {
  uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
  for (size_t i = 0; i < count; ++i) add_block(blocks + 64 * i, &abcd, &efgh);
  vst1q_u32(state, abcd);
  vst1q_u32(state + 4, efgh);
}

}  // namespace micronet::engine

#endif  // MICRONET_ARM64
