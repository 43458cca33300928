// Packed bits: to and from flags, and choosing values by them. Counts of what is not zero.

#include <cstring>

#include "cpu/kernels.h"
#include "cpu/pack.h"
#include "cpu/parallel.h"
#include "include/core.h"

namespace micronet {
namespace {

// The eight flags of every byte of bits, as one word.
struct Flags {
  uint64_t of[256] = {};

  constexpr Flags() {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      for (uint32_t j = 0; j < 8; ++j) of[byte] |= uint64_t{(byte >> j) & 1} << (8 * j);
    }
  }
};
constexpr Flags kFlags;

// Words of `Word` that are not 0 once the sign is gone.
template <typename Word>
int64_t count_words(const Word* w, int64_t numel) {
  constexpr Word kSignless = static_cast<Word>(static_cast<Word>(~Word{0}) >> 1);
  int64_t count = 0;
  for (int64_t i = 0; i < numel; ++i) count += (w[i] & kSignless) != 0;
  return count;
}

}  // namespace

int select_by_bits_cpu(const void* values, DType type, const uint8_t* bits, int64_t numel,
                       void* out, const ParallelFor& parallel) {
  const bool streamed = leaves_cache(out, numel * width_of(type));
  for_blocks(parallel, numel, [&](int64_t from, int64_t count) {
    kernels().select(at(values, type, from), type, bits + from / 8, count, at(out, type, from),
                     streamed);
  });
  return kOk;
}

int pack_bits_cpu(const uint8_t* flags, int64_t numel, uint8_t* bits, const ParallelFor& parallel) {
  for_blocks(parallel, numel, [&](int64_t from, int64_t count) {
    pack_flags(flags + from, count, bits + from / 8);
  });
  return kOk;
}

int unpack_bits_cpu(const uint8_t* bits, int64_t numel, uint8_t* flags,
                    const ParallelFor& parallel) {
  for_blocks(parallel, numel, [&](int64_t from, int64_t count) {
    for (int64_t i = from; i < from + count; i += 8) {
      const int64_t left = from + count - i;
      std::memcpy(flags + i, &kFlags.of[bits[i / 8]], static_cast<size_t>(left < 8 ? left : 8));
    }
  });
  return kOk;
}

int count_bits_cpu(const uint8_t* bits, int64_t numel, int64_t* count) {
  int64_t found = 0, b = 0;
  for (; 8 * (b + 8) <= numel; b += 8) {
    uint64_t word;
    std::memcpy(&word, bits + b, sizeof(word));
    found += __builtin_popcountll(word);
  }
  for (int64_t i = 8 * b; i < numel; ++i) found += (bits[i / 8] >> (i % 8)) & 1;
  *count = found;
  return kOk;
}

int count_nonzero_cpu(const void* w, DType type, int64_t channels, int64_t per_channel,
                      int64_t* counts, const ParallelFor& parallel) {
  const int64_t row = per_channel > 0 ? per_channel : 1;
  parallel_for(parallel, channels, row, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const void* first = at(w, type, c * per_channel);
      counts[c] = type == kFloat32 ? count_words(static_cast<const uint32_t*>(first), per_channel)
                                   : count_words(static_cast<const uint16_t*>(first), per_channel);
    }
  });
  return kOk;
}

}  // namespace micronet
