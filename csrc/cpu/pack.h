// Eight flags to a byte, without a loop over bits.
#ifndef MICRONET_CPU_PACK_H_
#define MICRONET_CPU_PACK_H_

#include <cstdint>
#include <cstring>

namespace micronet {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "flag 0 must be the lowest byte");

// The byte whose bit j is flags[j], each flag 0 or 1. Flag j sits at bit 8j of the word; the
// multiplier's bit 56 - 7j moves it to bit 56 + j, and no two of the 64 products meet.
static inline uint8_t pack_byte(const uint8_t* flags) {
  uint64_t word;
  std::memcpy(&word, flags, sizeof(word));
  return static_cast<uint8_t>((word * 0x0102040810204080u) >> 56);
}

// bits [(count + 7) / 8] of flags [count], reading no flag beyond count.
static inline void pack_flags(const uint8_t* flags, int64_t count, uint8_t* bits) {
  const int64_t whole = count / 8;
  for (int64_t b = 0; b < whole; ++b) bits[b] = pack_byte(flags + 8 * b);
  if (count % 8 != 0) {
    uint8_t tail[8] = {};
    std::memcpy(tail, flags + 8 * whole, static_cast<size_t>(count % 8));
    bits[whole] = pack_byte(tail);
  }
}

}  // namespace micronet

#endif  // MICRONET_CPU_PACK_H_
