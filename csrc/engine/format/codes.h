// Codes and flags as a file packs them: a stream of bits, the lowest of a byte first.
#ifndef MICRONET_ENGINE_FORMAT_CODES_H_
#define MICRONET_ENGINE_FORMAT_CODES_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/format/document.h"

namespace micronet::engine {

inline int64_t bytes_for_bits(int64_t bits) { return (bits + 7) / 8; }

// What is made of codes eight at a time reads so many behind the last; there is room for them.
constexpr size_t kReadBehind = 8;

// Codes [count] of `levels` levels in groups of packing[0] codes c0 + c1*L + c2*L^2 ... of
// packing[1] bits, at most eight of each; `bytes` are as many as all groups take. Raises Refused,
// `what` being the subject of its sentence, where a code is not below the levels, or what follows
// the last code is not zero.
std::vector<uint8_t> unpack_codes(std::span<const uint8_t> bytes, int64_t count, int levels,
                                  Pair packing, const std::string& what);

// Raises Refused where bit `count` or one behind it is set.
void check_no_bit_behind(std::span<const uint8_t> bytes, int64_t count, const std::string& what);

// How many bits are set.
size_t count_bits(std::span<const uint8_t> bytes);

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_FORMAT_CODES_H_
