// Loads and stores of 16 bytes, and conversions to and from float32.
#ifndef MICRONET_CUDA_VECTOR_H_
#define MICRONET_CUDA_VECTOR_H_

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include <cstdint>
#include <type_traits>

#include "cuda/launch.h"
#include "include/core.h"

namespace micronet {

constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;

// A warp takes a tile at a time, each lane eight elements of it, enough for a byte of bits.
constexpr int kEach = 8;
constexpr int kTile = kWarp * kEach;

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
// Two additions, which devices are eight times faster at than at conversions: kShift + v, and back.
__device__ __forceinline__ float to_float(int16_t v) {
  return __int_as_float(__float_as_int(kShift) + v) - kShift;
}
__device__ __forceinline__ float to_float(int32_t v) { return static_cast<float>(v); }

__device__ __forceinline__ void from_float(float v, float* out) { *out = v; }
__device__ __forceinline__ void from_float(float v, __nv_bfloat16* out) {
  *out = __float2bfloat16_rn(v);
}
__device__ __forceinline__ void from_float(float v, __half* out) { *out = __float2half_rn(v); }

// Calls body(pointer to the type that a DType names), null.
template <typename Body>
int with_type(DType type, const Body& body) {
  if (type == kBFloat16) return body(static_cast<__nv_bfloat16*>(nullptr));
  if (type == kFloat16) return body(static_cast<__half*>(nullptr));
  return body(static_cast<float*>(nullptr));
}

// What one access moves. A lane's packets lie a warp apart, so that a warp's access is one piece.
template <typename T>
struct alignas(16) Packet {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

// Where in its tile element e of a lane's eight lies.
template <typename T>
__device__ __forceinline__ int place(int lane, int e) {
  constexpr int kSize = Packet<T>::kSize;
  return (e / kSize * kWarp + lane) * kSize + e % kSize;
}

__device__ __forceinline__ bool is_aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

// A lane's eight elements of a tile of `count`, at least one: those beyond are the first.
template <bool kWhole, typename T>
__device__ __forceinline__ void load(const T* tile, int count, int lane, float (&v)[kEach]) {
  constexpr int kSize = Packet<T>::kSize;
#pragma unroll
  for (int p = 0; p < kEach; p += kSize) {
    const int at = place<T>(lane, p);
    Packet<T> packet;
    if (kWhole) packet = reinterpret_cast<const Packet<T>*>(tile)[at / kSize];
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      if (!kWhole) packet.values[i] = tile[at + i < count ? at + i : 0];
      v[p + i] = to_float(packet.values[i]);
    }
  }
}

template <bool kWhole, typename T>
__device__ __forceinline__ void store(const float (&v)[kEach], T* tile, int count, int lane) {
  constexpr int kSize = Packet<T>::kSize;
#pragma unroll
  for (int p = 0; p < kEach; p += kSize) {
    const int at = place<T>(lane, p);
    Packet<T> packet;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      from_float(v[p + i], &packet.values[i]);
      if (!kWhole && at + i < count) tile[at + i] = packet.values[i];
    }
    if (kWhole) reinterpret_cast<Packet<T>*>(tile)[at / kSize] = packet;
  }
}

// Writes the bits of a tile of `count` elements, where bit e of `flags` is that of a lane's element
// e. Every lane of the warp must call. Of float32 each lane has two halves of different bytes, and
// gives its neighbor the one for the neighbor's byte.
template <typename T>
__device__ __forceinline__ void store_bits(unsigned flags, uint8_t* bits, int count, int lane) {
  int byte = lane;
  if (Packet<T>::kSize == 4) {
    const bool odd = lane % 2 != 0;
    const unsigned kept = odd ? flags >> 4 : flags & 15u;
    const unsigned got = __shfl_xor_sync(kAllLanes, odd ? flags & 15u : flags >> 4, 1);
    flags = odd ? got | kept << 4 : kept | got << 4;
    byte = lane / 2 + (odd ? kWarp / 2 : 0);
  }
  if (byte * 8 >= count) return;
  const int rest = count - byte * 8;
  if (rest < 8) flags &= (1u << rest) - 1;
  bits[byte] = static_cast<uint8_t>(flags);
}

// Calls body(first element, elements, whole) for each tile of this warp, all lanes together. A tile
// is whole, and packets of it can be moved, where whole.value; only where `aligned` are there any.
template <typename Body>
__device__ __forceinline__ void for_tiles(int64_t numel, bool aligned, const Body& body) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  const int64_t whole = aligned ? numel / kTile : 0;
  int64_t tile = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  for (; tile < whole; tile += step) body(tile * kTile, kTile, std::true_type());
  for (; tile * kTile < numel; tile += step) {
    const int64_t rest = numel - tile * kTile;
    body(tile * kTile, rest < kTile ? static_cast<int>(rest) : kTile, std::false_type());
  }
}

static inline unsigned grid_for_tiles(int64_t numel) {
  return grid_for((numel + kTile - 1) / kTile * kWarp);
}

}  // namespace micronet

#endif  // MICRONET_CUDA_VECTOR_H_
