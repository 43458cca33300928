// Choosing values by packed bits on a CUDA device.

#include "cuda/vector.h"

namespace micronet {
namespace {

// Values are words, moved as they are. All pointers are to device memory.
template <typename T>
__global__ void select(const T* __restrict__ values, const uint8_t* __restrict__ bits,
                       int64_t numel, T* __restrict__ out) {
  constexpr int kSize = Packet<T>::kSize;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const auto kept = [](unsigned flags, int i, T v) { return (flags >> (i % 8)) & 1 ? v : T{0}; };
  for_tiles(numel, is_aligned(values) && is_aligned(out),
            [&](int64_t first, int count, auto whole) {
              const uint8_t* flags = bits + first / 8;
#pragma unroll
              for (int p = 0; p < kEach / kSize; ++p) {
                const int at = place<T>(lane, p * kSize);
                if (whole.value) {
                  Packet<T> packet = reinterpret_cast<const Packet<T>*>(values + first)[at / kSize];
#pragma unroll
                  for (int i = 0; i < kSize; ++i) {
                    packet.values[i] = kept(flags[at / 8], at + i, packet.values[i]);
                  }
                  reinterpret_cast<Packet<T>*>(out + first)[at / kSize] = packet;
                } else {
                  for (int i = at; i < at + kSize && i < count; ++i) {
                    out[first + i] = kept(flags[i / 8], i, values[first + i]);
                  }
                }
              }
            });
}

template <typename T>
int select_words(const void* values, const uint8_t* bits, int64_t numel, void* out, void* stream) {
  return launch(select<T>, grid_for_tiles(numel), stream, static_cast<const T*>(values), bits,
                numel, static_cast<T*>(out));
}

}  // namespace

int select_by_bits_cuda(const void* values, DType type, const uint8_t* bits, int64_t numel,
                        void* out, void* stream) {
  if (numel == 0) return kOk;
  return type == kFloat32 ? select_words<uint32_t>(values, bits, numel, out, stream)
                          : select_words<uint16_t>(values, bits, numel, out, stream);
}

}  // namespace micronet
