// SHA-256. Source: FIPS 180-4, sections 5 and 6.2.

#include "engine/format/sha256.h"

#include <bit>
#include <cstring>

#include "engine/format/sha256_blocks.h"

#ifdef MICRONET_X86
#include <cpuid.h>
#elif defined(MICRONET_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace micronet::engine {
namespace {

uint32_t big_endian(const uint8_t* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

void add_block(uint32_t* state, const uint8_t* block) {
  uint32_t w[64];
  for (int i = 0; i < 16; ++i) w[i] = big_endian(block + 4 * i);
  for (int i = 16; i < 64; ++i) {
    const uint32_t a = w[i - 15], b = w[i - 2];
    w[i] = w[i - 16] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) + w[i - 7] +
           (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
  }
  uint32_t v[8];
  std::memcpy(v, state, sizeof(v));
  // Eight rounds bring every word back to its place: that which the standard calls the nth is
  // v[(n - r) % 8], and none has to move. Written out, so that the compiler sees each place.
  for (int i = 0; i < 64; i += 8) {
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
      const auto word = [&](int n) -> uint32_t& { return v[(n + 8 - r) % 8]; };
      const uint32_t a = word(0), b = word(1), e = word(4), g = word(6);
      // The choice and the majority of the standard, in fewer steps.
      const uint32_t one = word(7) + kSha256Rounds[i + r] + w[i + r] +
                           (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) +
                           (g ^ (e & (word(5) ^ g)));
      word(3) += one;
      word(7) = one + (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) +
                ((a & b) | (word(2) & (a | b)));
    }
  }
  for (int i = 0; i < 8; ++i) state[i] += v[i];
}

struct Ways {
  Sha256Way all[2] = {{"plain", add_blocks_plainly}};
  size_t count = 1;

  Ways() {
#ifdef MICRONET_X86
    constexpr unsigned kSsse3 = 1u << 9, kSse41 = 1u << 19;  // leaf 1, ECX
    constexpr unsigned kSha = 1u << 29;                      // leaf 7, EBX
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kSsse3) == 0 || (c & kSse41) == 0) return;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & kSha) == 0) return;
    all[count++] = {"SHA-NI", add_blocks_by_sha_ni};
#elif defined(MICRONET_ARM64) && defined(__linux__)
    if ((getauxval(AT_HWCAP) & HWCAP_SHA2) == 0) return;
    all[count++] = {"SHA2", add_blocks_by_sha2};
#endif
  }
};

}  // namespace

void add_blocks_plainly(uint32_t* state, const uint8_t* blocks, size_t count) {
  for (size_t i = 0; i < count; ++i) add_block(state, blocks + 64 * i);
}

std::span<const Sha256Way> sha256_ways() {
  static const Ways ways;
  return {ways.all, ways.count};
}

std::string sha256(std::span<const uint8_t> data, const Sha256Way& way) {
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const size_t whole = data.size() / 64 * 64, rest = data.size() - whole;
  way.add(state, data.data(), whole / 64);
  uint8_t last[128] = {};
  if (rest > 0) std::memcpy(last, data.data() + whole, rest);
  last[rest] = 0x80;
  const size_t length = rest < 56 ? 64 : 128;
  const uint64_t bits = uint64_t{data.size()} * 8;
  for (size_t i = 0; i < 8; ++i) last[length - 1 - i] = static_cast<uint8_t>(bits >> (8 * i));
  way.add(state, last, length / 64);
  std::string text;
  for (const uint32_t word : state) {
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  }
  return text;
}

}  // namespace micronet::engine
