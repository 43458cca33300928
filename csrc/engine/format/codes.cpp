// Streams of bits, eight groups at a time and the rest one by one.

#include "engine/format/codes.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/format/error.h"

namespace micronet::engine {
namespace {

struct Bits {
  std::span<const uint8_t> bytes;
  int64_t at = 0;

  // Up to eight.
  int next(int count) {
    const size_t byte = static_cast<size_t>(at / 8);
    int word = bytes[byte];
    if (byte + 1 < bytes.size()) word |= bytes[byte + 1] << 8;
    word = word >> (at % 8) & ((1 << count) - 1);
    at += count;
    return word;
  }
};

// Eight numbers of `width` bits side by side to a byte each: the upper half of what is left moves
// to the upper half of its room, three times.
class Spread {
 public:
  explicit Spread(int width) : width_(width) {
    const uint64_t one = (uint64_t{1} << width) - 1, two = (uint64_t{1} << 2 * width) - 1;
    four_ = (uint64_t{1} << 4 * width) - 1;
    two_ = two | two << 32;
    one_ = one | one << 16 | one << 32 | one << 48;
  }

  uint64_t operator()(uint64_t word) const {
    word = (word & four_) | (word >> 4 * width_ & four_) << 32;
    word = (word & two_) | (word >> 2 * width_ & two_) << 16;
    return (word & one_) | (word >> width_ & one_) << 8;
  }

 private:
  int width_;
  uint64_t one_, two_, four_;
};

// The codes of every number of a group; the last is what is left, so that a number beyond the
// group's is seen.
struct Digits {
  uint8_t of[256][8] = {};

  Digits(int levels, int64_t size, int64_t width) {
    for (int number = 0; number < 1 << width; ++number) {
      int rest = number;
      for (int64_t c = 0; c + 1 < size; ++c, rest /= levels) {
        of[number][c] = static_cast<uint8_t>(rest % levels);
      }
      of[number][size - 1] = static_cast<uint8_t>(rest);
    }
  }
};

static_assert(std::endian::native == std::endian::little, "the first group must be the lowest");

// Units of eight groups, which fill whole bytes, each read and written as words of eight bytes that
// may reach beyond it: as many as that leaves room for. Returns how many.
int64_t unpack_units(std::span<const uint8_t> bytes, int64_t count, int levels, Pair packing,
                     uint8_t* codes) {
  const auto [size, width] = packing;
  const int64_t readable = static_cast<int64_t>(bytes.size()) - 8, writable = count - 7 * size - 8;
  if (readable < 0 || writable < 0) return 0;
  const int64_t units = std::min(readable / width, writable / (8 * size)) + 1;
  const Spread spread(static_cast<int>(width));
  const auto numbers = [&, step = width](int64_t unit) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + unit * step, 8);
    return spread(word);
  };
  if (size == 1) {
    for (int64_t unit = 0; unit < units; ++unit, codes += 8) {
      const uint64_t eight = numbers(unit);
      std::memcpy(codes, &eight, 8);
    }
    return units;
  }
  const Digits digits(levels, size, width);
  for (int64_t unit = 0; unit < units; ++unit) {
    uint64_t eight = numbers(unit);
    for (int group = 0; group < 8; ++group, eight >>= 8, codes += size) {
      std::memcpy(codes, digits.of[eight & 255], 8);
    }
  }
  return units;
}

[[noreturn]] void refuse_code(int code, int levels, const std::string& what) {
  refuse(what + " has the code " + std::to_string(code) + " of " + std::to_string(levels) +
         " levels");
}

void check_codes(const uint8_t* codes, int64_t count, int levels, const std::string& what) {
  uint8_t most = 0;
  for (int64_t i = 0; i < count; ++i) most = std::max(most, codes[i]);
  if (most < levels) return;
  refuse_code(*std::find_if(codes, codes + count, [&](uint8_t code) { return code >= levels; }),
              levels, what);
}

}  // namespace

std::vector<uint8_t> unpack_codes(std::span<const uint8_t> bytes, int64_t count, int levels,
                                  Pair packing, const std::string& what) {
  const auto [size, width] = packing;
  std::vector<uint8_t> found;
  found.reserve(static_cast<size_t>(count) + kReadBehind);
  found.resize(static_cast<size_t>(count));
  const int64_t first = 8 * unpack_units(bytes, count, levels, packing, found.data());
  check_codes(found.data(), first * size, levels, what);
  const int64_t groups = (count + size - 1) / size;
  Bits bits{bytes, first * width};
  for (int64_t group = first; group < groups; ++group) {
    int rest = bits.next(static_cast<int>(width));
    for (int64_t i = group * size; i < (group + 1) * size; ++i) {
      const bool is_last = i + 1 == (group + 1) * size;
      const int code = is_last ? rest : rest % levels;
      rest /= levels;
      if (code >= levels) refuse_code(code, levels, what);
      if (i >= count && code != 0) refuse(what + " has a code behind the last one");
      if (i < count) found[static_cast<size_t>(i)] = static_cast<uint8_t>(code);
    }
  }
  check_no_bit_behind(bytes, groups * width, what);
  return found;
}

void check_no_bit_behind(std::span<const uint8_t> bytes, int64_t count, const std::string& what) {
  Bits bits{bytes, count};
  while (bits.at < static_cast<int64_t>(bytes.size()) * 8) {
    require(bits.next(1) == 0, what + " has a bit behind the last one");
  }
}

size_t count_bits(std::span<const uint8_t> bytes) {
  size_t count = 0, i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + i, 8);
    count += static_cast<size_t>(std::popcount(word));
  }
  for (; i < bytes.size(); ++i) count += static_cast<size_t>(std::popcount(bytes[i]));
  return count;
}

}  // namespace micronet::engine
