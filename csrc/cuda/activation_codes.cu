// Activations as codes on a CUDA device.

#include "cuda/extremes.h"
#include "cuda/rounding.h"

namespace micronet {
namespace {

// The codes of a lane's eight elements, 0 where not finite, of kBits each.
template <int kBits>
__device__ __forceinline__ void codes_of(const float (&v)[kEach], const Quantizer& q,
                                         unsigned (&words)[kBits / 4]) {
  constexpr int kInWord = 32 / kBits;
#pragma unroll
  for (int w = 0; w < kBits / 4; ++w) {
    words[w] = 0;
#pragma unroll
    for (int e = 0; e < kInWord; ++e) {
      const unsigned slot = slot_of(quantize(v[w * kInWord + e], q), q);
      words[w] |= (slot < (1u << kBits) ? slot : 0u) << (kBits * e);
    }
  }
}

// Writes eight half bytes to the codes of their tile of `count` elements; half a last byte is 0.
template <bool kWhole, typename T>
__device__ __forceinline__ void store_codes(const unsigned (&words)[1], uint8_t* codes, int count,
                                            int lane) {
  const unsigned word = words[0];
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

// The same of bytes.
template <bool kWhole, typename T>
__device__ __forceinline__ void store_codes(const unsigned (&words)[2], uint8_t* codes, int count,
                                            int lane) {
#pragma unroll
  for (int w = 0; w < 2; ++w) {
    const int at = place<T>(lane, 4 * w);
    if (kWhole) *reinterpret_cast<uint32_t*>(codes + at) = words[w];
#pragma unroll
    for (int e = 0; e < 4 && !kWhole; ++e) {
      if (at + e < count) codes[at + e] = static_cast<uint8_t>(words[w] >> (8 * e));
    }
  }
}

// Cooperative. x [numel], codes [code_bytes(numel, levels)], inside [bytes_for(numel)], extremes
// [2] and partial [gridDim.x, 2] in device memory.
template <int kBits, typename T>
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
    unsigned words[kBits / 4];
    codes_of<kBits>(v, q, words);
    store_codes<whole.value, T>(words, codes + first * kBits / 8, count, lane);
    store_bits<T>(inside_of(v, q), inside + first / 8, count, lane);
  });
  publish_extremes(seen, partial, extremes);
}

// Four codes of a tile of `count` elements, from its element i on; 0 beyond the end.
template <int kBits, bool kWhole>
__device__ __forceinline__ unsigned load_codes(const uint8_t* tile, int i, int count) {
  using Four = std::conditional_t<kBits == 4, uint16_t, uint32_t>;
  constexpr int kInByte = 8 / kBits;
  if (kWhole) return *reinterpret_cast<const Four*>(tile + i / kInByte);
  unsigned word = 0;
#pragma unroll
  for (int k = 0; k < 4; k += kInByte) {
    if (i + k < count) word |= static_cast<unsigned>(tile[(i + k) / kInByte]) << (kBits * k);
  }
  return word;
}

// Every state of a code's bits has a value, also those that no element is rounded to.
template <int kBits, typename T>
__global__ void decode(const uint8_t* __restrict__ codes, int64_t numel,
                       const float* __restrict__ range, int levels, int scheme, T* __restrict__ y) {
  constexpr int kStates = 1 << kBits;
  static_assert(kStates <= kThreads, "a thread for each state");
  __shared__ float table[kStates];
  const Quantizer q = make_quantizer(range[0], range[1], levels, scheme);
  if (threadIdx.x < kStates) {
    table[threadIdx.x] = dequantize(static_cast<float>(threadIdx.x) + q.code_min, q);
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  for_tiles(numel, is_aligned(y) && is_aligned(codes), [&](int64_t first, int count, auto whole) {
    float v[kEach];
    const uint8_t* tile = codes + first * kBits / 8;
#pragma unroll
    for (int e = 0; e < kEach; e += 4) {
      const unsigned word = load_codes<kBits, whole.value>(tile, place<T>(lane, e), count);
      for (int k = 0; k < 4; ++k) v[e + k] = table[(word >> (kBits * k)) & (kStates - 1u)];
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
    const auto kernel = are_half_bytes(levels) ? encode<4, T> : encode<8, T>;
    return launch_cooperative(kernel, observing_grid(numel), stream, static_cast<const T*>(x),
                              numel, range, levels, scheme, codes, inside, extremes, workspace);
  });
}

int dequantize_per_tensor_cuda(const uint8_t* codes, int64_t numel, const float* range, int levels,
                               int scheme, void* y, DType type, void* stream) {
  if (numel == 0) return kOk;
  return with_type(type, [&](auto* t) {
    using T = std::remove_pointer_t<decltype(t)>;
    const auto kernel = are_half_bytes(levels) ? decode<4, T> : decode<8, T>;
    return launch(kernel, grid_for_tiles(numel), stream, codes, numel, range, levels, scheme,
                  static_cast<T*>(y));
  });
}

}  // namespace micronet
