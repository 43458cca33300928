// Codes of L levels in groups of at most eight bits.

#include <atomic>
#include <cstring>

#include "cpu/parallel.h"
#include "include/core.h"

namespace micronet {
namespace {

// Eight groups fill whole bytes: as many as a group has bits.
constexpr int kGroups = 8;

// A unit of eight groups; at the end of a tensor fewer codes, the rest being 0.
struct Unit {
  CodeGroup group;
  int levels;

  explicit Unit(int l) : group(code_group(l)), levels(l) {}

  int codes() const { return kGroups * group.size; }

  uint64_t pack(const uint8_t* codes) const {
    uint64_t stream = 0;
    if (group.size == 1) {
      for (int g = 0; g < kGroups; ++g) stream |= uint64_t{codes[g]} << (g * group.bits);
      return stream;
    }
    for (int g = 0; g < kGroups; ++g) {
      uint64_t word = 0;
      for (int c = group.size - 1; c >= 0; --c) {
        word = word * static_cast<uint64_t>(levels) + codes[g * group.size + c];
      }
      stream |= word << (g * group.bits);
    }
    return stream;
  }
};

// The codes of every word that a group may hold.
struct Digits {
  uint8_t of[256][8];

  explicit Digits(const Unit& unit) {
    for (int word = 0; word < 256; ++word) {
      for (int c = 0, rest = word; c < unit.group.size; ++c, rest /= unit.levels) {
        of[word][c] = static_cast<uint8_t>(rest % unit.levels);
      }
    }
  }
};

bool any_at_least(const uint8_t* codes, int64_t count, int levels) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) bad |= codes[i] >= levels;
  return bad != 0;
}

// Calls body(first code, number of codes, first byte, number of bytes) for each unit.
template <typename Body>
void for_units(const Unit& unit, int64_t numel, const ParallelFor& parallel, const Body& body) {
  const int64_t codes = unit.codes(), units = (numel + codes - 1) / codes;
  const int64_t bytes = packed_bytes(numel, unit.levels);
  parallel_for(parallel, units, codes, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const int64_t code = u * codes, byte = u * unit.group.bits;
      const int64_t bytes_left = bytes - byte < unit.group.bits ? bytes - byte : unit.group.bits;
      body(code, numel - code < codes ? numel - code : codes, byte, bytes_left);
    }
  });
}

// Two codes a byte, the commonest packing, in loops that a compiler turns into vectors: 16 M codes
// in an eighth of the time of the units.
void pack_nibbles(const uint8_t* codes, int64_t numel, uint8_t* packed) {
  for (int64_t b = 0; b < numel / 2; ++b) {
    packed[b] = static_cast<uint8_t>(codes[2 * b] | codes[2 * b + 1] << 4);
  }
  if (numel % 2 != 0) packed[numel / 2] = codes[numel - 1];
}

void unpack_nibbles(const uint8_t* packed, int64_t numel, uint8_t* codes) {
  for (int64_t b = 0; b < numel / 2; ++b) {
    codes[2 * b] = packed[b] & 15;
    codes[2 * b + 1] = packed[b] >> 4;
  }
  if (numel % 2 != 0) codes[numel - 1] = packed[numel / 2] & 15;
}

}  // namespace

int pack_codes_cpu(const uint8_t* codes, int64_t numel, int levels, uint8_t* packed,
                   const ParallelFor& parallel) {
  const Unit unit(levels);
  std::atomic<bool> bad{false};
  if (levels == kHalfByteLevels) {
    for_blocks(parallel, numel, [&](int64_t from, int64_t count) {
      pack_nibbles(codes + from, count, packed + from / 2);
      if (any_at_least(codes + from, count, levels)) bad.store(true, std::memory_order_relaxed);
    });
    return bad ? kBadCode : kOk;
  }
  for_units(unit, numel, parallel, [&](int64_t code, int64_t count, int64_t byte, int64_t bytes) {
    uint8_t whole[kGroups * 8] = {};
    std::memcpy(whole, codes + code, static_cast<size_t>(count));
    if (any_at_least(whole, count, levels)) bad.store(true, std::memory_order_relaxed);
    const uint64_t stream = unit.pack(whole);
    std::memcpy(packed + byte, &stream, static_cast<size_t>(bytes));
  });
  return bad ? kBadCode : kOk;
}

int unpack_codes_cpu(const uint8_t* packed, int64_t numel, int levels, uint8_t* codes,
                     const ParallelFor& parallel) {
  if (levels == kHalfByteLevels) {
    for_blocks(parallel, numel, [&](int64_t from, int64_t count) {
      unpack_nibbles(packed + from / 2, count, codes + from);
    });
    return kOk;
  }
  const Unit unit(levels);
  const Digits digits(unit);
  const uint64_t last = (uint64_t{1} << unit.group.bits) - 1;
  for_units(unit, numel, parallel, [&](int64_t code, int64_t count, int64_t byte, int64_t bytes) {
    uint64_t stream = 0;
    std::memcpy(&stream, packed + byte, static_cast<size_t>(bytes));
    uint8_t whole[kGroups * 8];
    for (int g = 0; g < kGroups; ++g, stream >>= unit.group.bits) {
      if (unit.group.size == 1) {
        whole[g] = digits.of[stream & last][0];
      } else {
        std::memcpy(whole + g * unit.group.size, digits.of[stream & last],
                    static_cast<size_t>(unit.group.size));
      }
    }
    std::memcpy(codes + code, whole, static_cast<size_t>(count));
  });
  return kOk;
}

}  // namespace micronet
