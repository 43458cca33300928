// Codes of L levels in groups of at most eight bits on a CUDA device.

#include "cuda/vector.h"

namespace micronet {
namespace {

// A thread takes eight groups, which fill whole bytes: as many as a group has bits.
constexpr int kGroups = 8;
constexpr int kPacketBytes = sizeof(uint4);

// Blocks' shares of a tensor pass through shared memory, so that device memory is read and written
// 16 bytes at a time although a thread's codes and bytes are of odd sizes. Zeros fill what is left
// of to [room] beyond `bytes`. Every thread must call.
__device__ __forceinline__ void bring(const uint8_t* from, int64_t bytes, int room, uint4* to) {
  const bool aligned = is_aligned(from);
  for (int at = static_cast<int>(threadIdx.x) * kPacketBytes; at < room;
       at += kThreads * kPacketBytes) {
    if (aligned && at + kPacketBytes <= bytes) {
      to[at / kPacketBytes] = *reinterpret_cast<const uint4*>(from + at);
    } else {
      uint8_t* each = reinterpret_cast<uint8_t*>(to + at / kPacketBytes);
      for (int i = 0; i < kPacketBytes; ++i) each[i] = at + i < bytes ? from[at + i] : 0;
    }
  }
}

// The way back, of the first min(bytes, room).
__device__ __forceinline__ void take(const uint4* from, int room, int64_t bytes, uint8_t* to) {
  const bool aligned = is_aligned(to);
  const int64_t end = bytes < room ? bytes : room;
  for (int at = static_cast<int>(threadIdx.x) * kPacketBytes; at < end;
       at += kThreads * kPacketBytes) {
    if (aligned && at + kPacketBytes <= end) {
      *reinterpret_cast<uint4*>(to + at) = from[at / kPacketBytes];
    } else {
      const uint8_t* each = reinterpret_cast<const uint8_t*>(from + at / kPacketBytes);
      for (int i = 0; i < kPacketBytes && at + i < end; ++i) to[at + i] = each[i];
    }
  }
}

// The codes of a block's eight groups a thread.
template <int kSize>
struct Share {
  static constexpr int kCodes = kThreads * kGroups * kSize;
  static constexpr int kMostBytes = kThreads * kGroups;
};

// codes [numel] and packed [bytes] in device memory. A group is of kSize codes.
template <int kSize>
__global__ void pack_groups(const uint8_t* __restrict__ codes, int64_t numel, int levels, int bits,
                            uint8_t* __restrict__ packed, int64_t bytes) {
  __shared__ uint4 in[Share<kSize>::kCodes / kPacketBytes];
  __shared__ uint4 out[Share<kSize>::kMostBytes / kPacketBytes];
  const int share = kThreads * bits;
  const uint32_t last = (1u << bits) - 1, base = static_cast<uint32_t>(levels);
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t b = blockIdx.x; b * share < bytes; b += gridDim.x) {
    const int64_t first = b * Share<kSize>::kCodes;
    bring(codes + first, numel - first, Share<kSize>::kCodes, in);
    __syncthreads();
    uint64_t mine[kSize], stream = 0;
#pragma unroll
    for (int i = 0; i < kSize; ++i)
      mine[i] = reinterpret_cast<const uint64_t*>(in)[thread * kSize + i];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      uint32_t word = 0;
#pragma unroll
      for (int c = kSize - 1; c >= 0; --c) {
        const int i = g * kSize + c;
        word = word * base + static_cast<uint8_t>(mine[i / 8] >> (i % 8 * 8));
      }
      stream |= static_cast<uint64_t>(word & last) << (g * bits);
    }
    for (int i = 0; i < bits; ++i) {
      reinterpret_cast<uint8_t*>(out)[thread * bits + i] = static_cast<uint8_t>(stream >> (8 * i));
    }
    __syncthreads();
    take(out, share, bytes - b * share, packed + b * share);
  }
}

// The inverse. Below 2^8, dividing by up to 2^8 levels is exactly a multiplication by the
// reciprocal rounded up, of 16 bits.
template <int kSize>
__global__ void unpack_groups(const uint8_t* __restrict__ packed, int64_t bytes, int levels,
                              int bits, uint8_t* __restrict__ codes, int64_t numel) {
  __shared__ uint4 in[Share<kSize>::kMostBytes / kPacketBytes];
  __shared__ uint4 out[Share<kSize>::kCodes / kPacketBytes];
  const int share = kThreads * bits;
  const uint32_t base = static_cast<uint32_t>(levels), reciprocal = 65536u / base + 1;
  const uint32_t last = (1u << bits) - 1;
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t b = blockIdx.x; b * share < bytes; b += gridDim.x) {
    bring(packed + b * share, bytes - b * share, share, in);
    __syncthreads();
    uint64_t mine[kSize] = {}, stream = 0;
    for (int i = 0; i < bits; ++i) {
      const uint8_t byte = reinterpret_cast<const uint8_t*>(in)[thread * bits + i];
      stream |= static_cast<uint64_t>(byte) << (8 * i);
    }
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      uint32_t word = static_cast<uint32_t>(stream >> (g * bits)) & last;
#pragma unroll
      for (int c = 0; c < kSize; ++c) {
        const int i = g * kSize + c;
        const uint32_t rest = word * reciprocal >> 16;
        mine[i / 8] |= static_cast<uint64_t>(word - rest * base) << (i % 8 * 8);
        word = rest;
      }
    }
#pragma unroll
    for (int i = 0; i < kSize; ++i) reinterpret_cast<uint64_t*>(out)[thread * kSize + i] = mine[i];
    __syncthreads();
    const int64_t first = b * Share<kSize>::kCodes;
    take(out, Share<kSize>::kCodes, numel - first, codes + first);
  }
}

constexpr bool are_sizes_known() {
  for (int levels = 2; levels <= 256; ++levels) {
    const int size = code_group(levels).size;
    if (size > 5 || size == 4) return false;
  }
  return true;
}

// Calls body(codes of a group, as a type).
template <typename Body>
int with_size(int size, const Body& body) {
  static_assert(are_sizes_known(), "a group has a number of codes that is not below");
  if (size == 5) return body(std::integral_constant<int, 5>());
  if (size == 3) return body(std::integral_constant<int, 3>());
  if (size == 2) return body(std::integral_constant<int, 2>());
  return body(std::integral_constant<int, 1>());
}

}  // namespace

int pack_codes_cuda(const uint8_t* codes, int64_t numel, int levels, uint8_t* packed,
                    void* stream) {
  if (numel == 0) return kOk;
  const CodeGroup group = code_group(levels);
  const int64_t bytes = packed_bytes(numel, levels);
  return with_size(group.size, [&](auto size) {
    return launch(pack_groups<size.value>, grid_for(bytes / group.bits + 1), stream, codes, numel,
                  levels, group.bits, packed, bytes);
  });
}

int unpack_codes_cuda(const uint8_t* packed, int64_t numel, int levels, uint8_t* codes,
                      void* stream) {
  if (numel == 0) return kOk;
  const CodeGroup group = code_group(levels);
  const int64_t bytes = packed_bytes(numel, levels);
  return with_size(group.size, [&](auto size) {
    return launch(unpack_groups<size.value>, grid_for(bytes / group.bits + 1), stream, packed,
                  bytes, levels, group.bits, codes, numel);
  });
}

}  // namespace micronet
