// Activations as 4-bit codes on a CUDA device.

#include "cuda/extremes.h"
#include "cuda/rounding.h"

namespace micronet {
namespace {

// The codes of a lane's eight elements from bit 4e on, 0 where not finite.
__device__ __forceinline__ unsigned codes_of(const float (&v)[kEach], const Quantizer& q) {
  unsigned word = 0;
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const unsigned slot = slot_of(quantize(v[e], q), q);
    word |= (slot < kCodeLevels ? slot : 0u) << (4 * e);
  }
  return word;
}

// Writes them to the codes of their tile of `count` elements; half a last byte is 0.
template <bool kWhole, typename T>
__device__ __forceinline__ void store_codes(unsigned word, uint8_t* codes, int count, int lane) {
  if (kWhole && Packet<T>::kSize == kEach) {
    reinterpret_cast<uint32_t*>(codes)[lane] = word;
  } else if (kWhole) {
    reinterpret_cast<uint16_t*>(codes)[lane] = static_cast<uint16_t>(word);
    reinterpret_cast<uint16_t*>(codes)[kWarp + lane] = static_cast<uint16_t>(word >> 16);
  } else {
#pragma unroll
    for (int e = 0; e < kEach; e += 2) {
      const int i = place<T>(lane, e);
      const unsigned pair = (word >> (4 * e)) & (i + 1 < count ? 0xffu : 0x0fu);
      if (i < count) codes[i / 2] = static_cast<uint8_t>(pair);
    }
  }
}

// Cooperative. x [numel], codes [packed_bytes(numel, kCodeLevels)], inside [bytes_for(numel)],
// extremes [2] and partial [gridDim.x, 2] in device memory.
template <typename T>
__global__ void encode(const T* __restrict__ x, int64_t numel, const float* __restrict__ range,
                       int levels, int scheme, uint8_t* __restrict__ codes,
                       uint8_t* __restrict__ inside, float* extremes, float* partial) {
  const Quantizer q = make_quantizer(range[0], range[1], levels, scheme);
  Extremes seen;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  for_tiles(numel, is_aligned(x) && is_aligned(codes), [&](int64_t first, int count, auto whole) {
    float v[kEach];
    load<whole.value>(x + first, count, lane, v);
    seen.add(v);
    store_codes<whole.value, T>(codes_of(v, q), codes + first / 2, count, lane);
    store_bits<T>(inside_of(v, q), inside + first / 8, count, lane);
  });
  publish_extremes(seen, partial, extremes);
}

// Every state of four bits has a value, also those that no element is rounded to.
template <typename T>
__global__ void decode(const uint8_t* __restrict__ codes, int64_t numel,
                       const float* __restrict__ range, int levels, int scheme, T* __restrict__ y) {
  __shared__ float table[kCodeLevels];
  const Quantizer q = make_quantizer(range[0], range[1], levels, scheme);
  if (threadIdx.x < kCodeLevels) {
    table[threadIdx.x] = dequantize(static_cast<float>(threadIdx.x) + q.code_min, q);
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  for_tiles(numel, is_aligned(y) && is_aligned(codes), [&](int64_t first, int count, auto whole) {
    float v[kEach];
    const uint8_t* tile = codes + first / 2;
#pragma unroll
    for (int e = 0; e < kEach; e += 4) {
      const int i = place<T>(lane, e);
      unsigned word = 0;
      if (whole.value) {
        word = *reinterpret_cast<const uint16_t*>(tile + i / 2);
      } else {
        if (i < count) word = tile[i / 2];
        if (i + 2 < count) word |= static_cast<unsigned>(tile[i / 2 + 1]) << 8;
      }
      for (int k = 0; k < 4; ++k) v[e + k] = table[(word >> (4 * k)) & 15u];
    }
    store<whole.value>(v, y + first, count, lane);
  });
}

}  // namespace

int quantize_per_tensor_cuda(const void* x, DType type, int64_t numel, const float* range,
                             int levels, int scheme, uint8_t* codes, uint8_t* inside,
                             float* extremes, float* workspace, void* stream) {
  if (numel == 0) return kNoElements;
  return with_type(type, [&](auto* t) {
    using T = std::remove_pointer_t<decltype(t)>;
    return launch_cooperative(encode<T>, observing_grid(numel), stream, static_cast<const T*>(x),
                              numel, range, levels, scheme, codes, inside, extremes, workspace);
  });
}

int dequantize_per_tensor_cuda(const uint8_t* codes, int64_t numel, const float* range, int levels,
                               int scheme, void* y, DType type, void* stream) {
  if (numel == 0) return kOk;
  return with_type(type, [&](auto* t) {
    using T = std::remove_pointer_t<decltype(t)>;
    return launch(decode<T>, grid_for_tiles(numel), stream, codes, numel, range, levels, scheme,
                  static_cast<T*>(y));
  });
}

}  // namespace micronet
