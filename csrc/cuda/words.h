// Packed bits, a word of 32 at a time.
#ifndef MICRONET_CUDA_WORDS_H_
#define MICRONET_CUDA_WORDS_H_

#include "cuda/vector.h"

namespace micronet {

constexpr int kWordBits = 32;

// bits [numel], of which words are moved whole where their address allows.
template <typename Byte>
struct Words {
  Byte* bits;
  int64_t numel;
  bool aligned;

  __device__ __forceinline__ Words(Byte* b, int64_t n)
      : bits(b), numel(n), aligned(reinterpret_cast<uintptr_t>(b) % sizeof(uint32_t) == 0) {}

  __device__ __forceinline__ bool is_whole(int64_t first) const {
    return aligned && numel - first >= kWordBits;
  }

  // The bits from `first` on, a multiple of 32; 0 beyond the end.
  __device__ __forceinline__ uint32_t load(int64_t first) const {
    if (is_whole(first)) return *reinterpret_cast<const uint32_t*>(bits + first / 8);
    const int64_t left = numel - first;
    uint32_t word = 0;
    for (int b = 0; b < kWordBits && b < left; b += 8) {
      word |= static_cast<uint32_t>(bits[(first + b) / 8]) << b;
    }
    return left >= kWordBits ? word : left > 0 ? word & ((1u << left) - 1) : 0;
  }

  // The same way; bits of `word` beyond the end are 0.
  __device__ __forceinline__ void store(int64_t first, uint32_t word) const {
    if (is_whole(first)) {
      *reinterpret_cast<uint32_t*>(bits + first / 8) = word;
      return;
    }
    for (int b = 0; b < kWordBits && first + b < numel; b += 8) {
      bits[(first + b) / 8] = static_cast<uint8_t>(word >> b);
    }
  }
};

}  // namespace micronet

#endif  // MICRONET_CUDA_WORDS_H_
