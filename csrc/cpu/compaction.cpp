// Values whose bit is 1, put together, and taken apart again.

#include "include/core.h"

namespace micronet {
namespace {

// Calls body(element) for every bit that is 1, in order.
template <typename Body>
void for_ones(const uint8_t* bits, int64_t numel, const Body& body) {
  for (int64_t first = 0; first < numel; first += 8) {
    uint32_t byte = bits[first / 8];
    if (numel - first < 8) byte &= (1u << (numel - first)) - 1;
    for (; byte != 0; byte &= byte - 1) body(first + __builtin_ctz(byte));
  }
}

template <typename Value>
void compact(const void* values, const uint8_t* bits, int64_t numel, void* kept) {
  const Value* from = static_cast<const Value*>(values);
  Value* to = static_cast<Value*>(kept);
  for_ones(bits, numel, [&](int64_t i) { *to++ = from[i]; });
}

template <typename Value>
void expand(const void* kept, const uint8_t* bits, int64_t numel, void* values) {
  const Value* from = static_cast<const Value*>(kept);
  Value* to = static_cast<Value*>(values);
  for (int64_t i = 0; i < numel; ++i) to[i] = 0;
  for_ones(bits, numel, [&](int64_t i) { to[i] = *from++; });
}

// The one of three functions for elements of so many bytes.
template <typename Move>
Move* for_width(int width, Move* one, Move* two, Move* four) {
  return width == 1 ? one : width == 2 ? two : four;
}

bool are_ones(const uint8_t* bits, int64_t numel, int64_t count) {
  int64_t found;
  count_bits_cpu(bits, numel, &found);
  return found == count;
}

}  // namespace

int compact_by_bits_cpu(const void* values, int width, const uint8_t* bits, int64_t numel,
                        int64_t count, void* kept) {
  if (!are_ones(bits, numel, count)) return kBadCount;
  for_width(width, compact<uint8_t>, compact<uint16_t>, compact<uint32_t>)(values, bits, numel,
                                                                           kept);
  return kOk;
}

int expand_by_bits_cpu(const void* kept, int width, const uint8_t* bits, int64_t numel,
                       int64_t count, void* values) {
  if (!are_ones(bits, numel, count)) return kBadCount;
  for_width(width, expand<uint8_t>, expand<uint16_t>, expand<uint32_t>)(kept, bits, numel, values);
  return kOk;
}

}  // namespace micronet
