// Exactly k smallest magnitudes by radix selection, without sorting.

#include <atomic>

#include "cpu/pack.h"
#include "cpu/parallel.h"
#include "include/core.h"

namespace micronet {
namespace {

// Magnitudes as unsigned integers of 31 bits, ordered as the magnitudes are; those of the 16-bit
// types sit at the top.
template <typename Word>
struct Magnitudes {
  const Word* w;
  uint32_t infinity;

  uint32_t operator[](int64_t i) const {
    if constexpr (sizeof(Word) == 4) return w[i] & 0x7fffffffu;
    return static_cast<uint32_t>(w[i] & 0x7fff) << 16;
  }
};

// The value of the k-th smallest (k >= 1) and how many of that value are among the k smallest.
struct Threshold {
  uint32_t value;
  int64_t ties;
};

struct Digit {
  int shift, bits;
};
constexpr int kBuckets = 1 << 11;

// Adds to histogram [kBuckets] the digits of the elements that agree with what is settled. Equal
// digits come one after the other, so four counters take turns and none waits for its own store.
template <typename Word>
void count_digits(const Magnitudes<Word>& m, int64_t from, int64_t count, Digit digit,
                  uint32_t settled, uint32_t settled_mask, std::atomic<int64_t>* histogram) {
  constexpr int kTurns = 4;
  uint32_t mine[kTurns][kBuckets] = {};
  const uint32_t last = (1u << digit.bits) - 1;
  for (int64_t i = from; i < from + count; ++i) {
    const uint32_t word = m[i];
    if ((word & settled_mask) == settled) ++mine[i % kTurns][(word >> digit.shift) & last];
  }
  for (int b = 0; b < kBuckets; ++b) {
    const int64_t found = int64_t{mine[0][b]} + mine[1][b] + mine[2][b] + mine[3][b];
    if (found != 0) histogram[b].fetch_add(found, std::memory_order_relaxed);
  }
}

// Settles the 31 bits of the k-th smallest from the top, 11 + 10 + 10, by counting the elements
// that agree with the bits settled so far.
template <typename Word>
Threshold kth_smallest(const Magnitudes<Word>& m, const Pieces& pieces, int64_t k,
                       const ParallelFor& parallel) {
  constexpr Digit kDigits[] = {{20, 11}, {10, 10}, {0, 10}};
  uint32_t settled = 0, settled_mask = 0;
  for (const Digit& digit : kDigits) {
    std::atomic<int64_t> histogram[kBuckets] = {};
    pieces.run(parallel, [&](int64_t, int64_t from, int64_t count) {
      count_digits(m, from, count, digit, settled, settled_mask, histogram);
    });
    uint32_t bucket = 0;
    while (k > histogram[bucket]) k -= histogram[bucket++];
    settled |= bucket << digit.shift;
    settled_mask |= ((1u << digit.bits) - 1) << digit.shift;
  }
  return {settled, k};
}

template <typename Word>
bool has_nan(const Magnitudes<Word>& m, const Pieces& pieces, const ParallelFor& parallel) {
  std::atomic<bool> found{false};
  const uint32_t infinity = m.infinity;
  pieces.run(parallel, [&](int64_t, int64_t from, int64_t count) {
    uint32_t nan = 0;
    for (int64_t i = from; i < from + count; ++i) nan |= m[i] > infinity;
    if (nan != 0) found.store(true, std::memory_order_relaxed);
  });
  return found;
}

// Writes the mask of a piece, whose first `ties` elements at the threshold are pruned.
template <typename Word>
void write_mask(const Magnitudes<Word>& m, int64_t from, int64_t count, uint32_t threshold,
                int64_t ties, uint8_t* mask) {
  uint8_t kept[kBlock];
  for (int64_t first = from; first < from + count; first += kBlock) {
    const int64_t left = from + count - first, length = left < kBlock ? left : kBlock;
    for (int64_t i = 0; i < length; ++i) kept[i] = m[first + i] >= threshold;
    for (int64_t i = 0; i < length && ties > 0; ++i) {
      if (m[first + i] != threshold) continue;
      kept[i] = 0;
      --ties;
    }
    pack_flags(kept, length, mask + first / 8);
  }
}

template <typename Word>
int select(const Magnitudes<Word>& m, int64_t numel, int64_t k, uint8_t* mask,
           const ParallelFor& parallel) {
  const Pieces pieces(numel);
  if (has_nan(m, pieces, parallel)) return kNotANumber;
  const Threshold threshold = k > 0 ? kth_smallest(m, pieces, k, parallel) : Threshold{0, 0};
  int64_t ties[Pieces::kMost] = {};
  pieces.run(parallel, [&](int64_t p, int64_t from, int64_t count) {
    int64_t found = 0;
    for (int64_t i = from; i < from + count; ++i) found += m[i] == threshold.value;
    ties[p] = found;
  });
  // Of equal magnitudes those of lower index go first: what is left for each piece.
  int64_t left = threshold.ties;
  for (int64_t p = 0; p < pieces.count; ++p) {
    const int64_t mine = ties[p] < left ? ties[p] : left;
    left -= mine;
    ties[p] = mine;
  }
  pieces.run(parallel, [&](int64_t p, int64_t from, int64_t count) {
    write_mask(m, from, count, threshold.value, ties[p], mask);
  });
  return kOk;
}

}  // namespace

int smallest_magnitude_mask_cpu(const void* w, DType type, int64_t numel, int64_t k, uint8_t* mask,
                                const ParallelFor& parallel) {
  if (k < 0 || k > numel) return kBadCount;
  if (type == kFloat32) {
    const Magnitudes<uint32_t> m{static_cast<const uint32_t*>(w), 0x7f800000u};
    return select(m, numel, k, mask, parallel);
  }
  const uint32_t infinity = type == kBFloat16 ? 0x7f800000u : 0x7c000000u;
  const Magnitudes<uint16_t> m{static_cast<const uint16_t*>(w), infinity};
  return select(m, numel, k, mask, parallel);
}

}  // namespace micronet
