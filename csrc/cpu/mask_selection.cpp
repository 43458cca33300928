// Exactly k smallest magnitudes by radix selection, without sorting.

#include <cstring>

#include "../core.h"

namespace micronet {
namespace {

constexpr uint32_t kSignless = 0x7fffffffu;
constexpr uint32_t kInfinity = 0x7f800000u;

// Words of magnitudes, read as unsigned integers, are ordered as the magnitudes are.
uint32_t magnitude(const float* w, int64_t i) {
  uint32_t word;
  std::memcpy(&word, w + i, sizeof(word));
  return word & kSignless;
}

// The value of the k-th smallest (k >= 1) and how many of that value are among the k smallest.
struct Threshold {
  uint32_t value;
  int64_t ties;
};

// Settles the 31 bits of the k-th smallest from the top, 11 + 10 + 10, by counting the elements
// that agree with the bits settled so far.
Threshold kth_smallest(const float* w, int64_t numel, int64_t k) {
  struct Digit {
    int shift, bits;
  };
  constexpr Digit kDigits[] = {{20, 11}, {10, 10}, {0, 10}};
  uint32_t settled = 0, settled_mask = 0;
  for (const Digit& digit : kDigits) {
    const uint32_t last = (1u << digit.bits) - 1;
    int64_t histogram[1 << 11] = {};
    for (int64_t i = 0; i < numel; ++i) {
      const uint32_t word = magnitude(w, i);
      if ((word & settled_mask) == settled) ++histogram[(word >> digit.shift) & last];
    }
    uint32_t bucket = 0;
    while (k > histogram[bucket]) k -= histogram[bucket++];
    settled |= bucket << digit.shift;
    settled_mask |= last << digit.shift;
  }
  return {settled, k};
}

}  // namespace

int smallest_magnitude_mask_cpu(const float* w, int64_t numel, int64_t k, uint8_t* mask) {
  if (k < 0 || k > numel) return kBadCount;
  for (int64_t i = 0; i < numel; ++i) {
    if (magnitude(w, i) > kInfinity) return kNotANumber;
  }
  Threshold threshold = k > 0 ? kth_smallest(w, numel, k) : Threshold{0, 0};
  for (int64_t at = 0; at < numel; at += 8) {
    const int64_t count = numel - at < 8 ? numel - at : 8;
    uint32_t byte = 0;
    for (int64_t j = 0; j < count; ++j) {
      const uint32_t word = magnitude(w, at + j);
      const bool tie = word == threshold.value && threshold.ties > 0;
      threshold.ties -= tie;
      byte |= static_cast<uint32_t>(word >= threshold.value && !tie) << j;
    }
    mask[at / 8] = static_cast<uint8_t>(byte);
  }
  return kOk;
}

}  // namespace micronet
