// Flags to and from packed bits, and counts, on a CUDA device.

#include "cuda/block_sums.h"
#include "cuda/rows.h"
#include "cuda/words.h"

namespace micronet {
namespace {

// A thread moves sixteen flags at a time.
constexpr int kFlags = sizeof(uint4);

// Eight flags, one a byte, to the bits of one byte: flag i moves from bit 8i to bit 56 + i.
__device__ __forceinline__ unsigned gather_bits(uint64_t flags) {
  return static_cast<unsigned>(flags * 0x0102040810204080ull >> 56);
}

// The inverse: each byte keeps its own bit of eight copies, and a carry makes that bit 7.
__device__ __forceinline__ uint64_t spread_bits(unsigned bits) {
  const uint64_t apart = bits * 0x0101010101010101ull & 0x8040201008040201ull;
  return (apart + 0x7f7f7f7f7f7f7f7full) >> 7 & 0x0101010101010101ull;
}

__device__ __forceinline__ uint64_t wide(unsigned low, unsigned high) {
  return static_cast<uint64_t>(high) << 32 | low;
}

// Calls body(first flag) for each of this thread's sixteens.
template <typename Body>
__device__ __forceinline__ void for_flags(int64_t numel, const Body& body) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kFlags;
  int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kFlags;
  for (; i < numel; i += step) body(i);
}

// flags [numel] and bits [bytes_for(numel)] in device memory.
__global__ void pack_flags(const uint8_t* __restrict__ flags, int64_t numel,
                           uint8_t* __restrict__ bits) {
  const bool aligned = is_aligned(flags) && is_aligned(bits);
  for_flags(numel, [&](int64_t i) {
    if (aligned && i + kFlags <= numel) {
      const uint4 v = *reinterpret_cast<const uint4*>(flags + i);
      const unsigned both = gather_bits(wide(v.x, v.y)) | gather_bits(wide(v.z, v.w)) << 8;
      *reinterpret_cast<uint16_t*>(bits + i / 8) = static_cast<uint16_t>(both);
      return;
    }
    for (int64_t first = i; first < i + kFlags && first < numel; first += 8) {
      unsigned byte = 0;
      for (int j = 0; j < 8 && first + j < numel; ++j) byte |= flags[first + j] << j;
      bits[first / 8] = static_cast<uint8_t>(byte);
    }
  });
}

__global__ void unpack_flags(const uint8_t* __restrict__ bits, int64_t numel,
                             uint8_t* __restrict__ flags) {
  const bool aligned = is_aligned(flags) && is_aligned(bits);
  for_flags(numel, [&](int64_t i) {
    if (aligned && i + kFlags <= numel) {
      const unsigned both = *reinterpret_cast<const uint16_t*>(bits + i / 8);
      const uint64_t low = spread_bits(both & 0xffu), high = spread_bits(both >> 8);
      *reinterpret_cast<uint4*>(flags + i) =
          make_uint4(static_cast<unsigned>(low), static_cast<unsigned>(low >> 32),
                     static_cast<unsigned>(high), static_cast<unsigned>(high >> 32));
      return;
    }
    for (int64_t j = i; j < i + kFlags && j < numel; ++j) {
      flags[j] = (bits[j / 8] >> (j % 8)) & 1;
    }
  });
}

// Adds the block's share to a count [1]. Every thread must call.
__device__ __forceinline__ void add_to(int64_t* count, int64_t mine) {
  const int64_t all = over_block(mine).all;
  if (threadIdx.x == 0 && all != 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(count), static_cast<unsigned long long>(all));
  }
}

__global__ void count_ones(const uint8_t* __restrict__ bits, int64_t numel, int64_t* count) {
  const Words<const uint8_t> words(bits, numel);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kWordBits;
  int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kWordBits;
  int64_t mine = 0;
  for (; first < numel; first += step) mine += __popc(words.load(first));
  add_to(count, mine);
}

// w [channels, per_channel] and counts [channels] in device memory.
template <typename T>
__global__ void count_elements(const T* __restrict__ w, const RowBlocks rows, int64_t* counts) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  rows.for_each([&](int64_t, int64_t row, int64_t first, int count) {
    const Piece<T> piece{w, nullptr, first, count, is_aligned(w + first)};
    int mine = 0;
    for (int64_t tile = threadIdx.x / kWarp; tile < piece.tiles(); tile += kWarps) {
      float v[kEach];
      piece.load(tile, lane, v);
#pragma unroll
      for (int e = 0; e < kEach; ++e) mine += v[e] != 0.0f;
    }
    add_to(counts + row, mine);
  });
}

int clear(int64_t* counts, int64_t numel, void* stream) {
  return status_of(cudaMemsetAsync(counts, 0, static_cast<size_t>(numel) * sizeof(int64_t),
                                   static_cast<cudaStream_t>(stream)));
}

}  // namespace

int pack_bits_cuda(const uint8_t* flags, int64_t numel, uint8_t* bits, void* stream) {
  if (numel == 0) return kOk;
  return launch(pack_flags, grid_for((numel + kFlags - 1) / kFlags), stream, flags, numel, bits);
}

int unpack_bits_cuda(const uint8_t* bits, int64_t numel, uint8_t* flags, void* stream) {
  if (numel == 0) return kOk;
  return launch(unpack_flags, grid_for((numel + kFlags - 1) / kFlags), stream, bits, numel, flags);
}

int count_bits_cuda(const uint8_t* bits, int64_t numel, int64_t* count, void* stream) {
  const int status = clear(count, 1, stream);
  if (status != kOk || numel == 0) return status;
  const int64_t words = (numel + kWordBits - 1) / kWordBits;
  return launch(count_ones, grid_for(words), stream, bits, numel, count);
}

int count_nonzero_cuda(const void* w, DType type, int64_t channels, int64_t per_channel,
                       int64_t* counts, void* stream) {
  if (channels == 0) return kOk;
  const int status = clear(counts, channels, stream);
  if (status != kOk || per_channel == 0) return status;
  const RowBlocks rows(channels, per_channel);
  return with_type(type, [&](auto* t) {
    using T = std::remove_pointer_t<decltype(t)>;
    return launch(count_elements<T>, rows.grid(), stream, static_cast<const T*>(w), rows, counts);
  });
}

}  // namespace micronet
