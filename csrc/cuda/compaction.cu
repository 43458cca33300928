// Values whose bit is 1, put together and taken apart again on a CUDA device.

#include "cuda/scan.h"
#include "cuda/words.h"

namespace micronet {
namespace {

// Words of bits in a block of elements, and those of them that one warp takes, an element a lane.
constexpr int kWords = static_cast<int>(kCompactBlock) / kWordBits;
constexpr int kWarpWords = kWords / kWarps;

int64_t blocks_of(int64_t numel) { return (numel + kCompactBlock - 1) / kCompactBlock; }

// counts [blocks]: ones in each block of bits [numel]. A warp takes a block.
__global__ void count_blocks(const uint8_t* __restrict__ bits, int64_t numel, int64_t blocks,
                             int64_t* __restrict__ counts) {
  const Words<const uint8_t> words(bits, numel);
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  int64_t block = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  for (; block < blocks; block += step) {
    int ones = 0;
    for (int w = lane; w < kWords; w += kWarp) {
      ones += __popc(words.load(block * kCompactBlock + w * kWordBits));
    }
#pragma unroll
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
      ones += __shfl_xor_sync(kAllLanes, ones, lanes);
    }
    if (lane == 0) counts[block] = ones;
  }
}

// Calls body(element, whether its bit is 1, ones before it) for all elements of bits [numel], those
// of a warp side by side. offsets [blocks]: ones before each block.
template <typename Body>
__device__ __forceinline__ void for_elements(const uint8_t* bits, int64_t numel,
                                             const int64_t* offsets, const Body& body) {
  __shared__ uint32_t words[kWords];
  __shared__ int64_t ranks[kWords];
  const Words<const uint8_t> all(bits, numel);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  int64_t block = blockIdx.x;
  for (; block * kCompactBlock < numel; block += gridDim.x) {
    const int64_t first = block * kCompactBlock;
    const uint32_t mine = thread < kWords ? all.load(first + thread * kWordBits) : 0;
    const int64_t before = over_block(__popc(mine)).before;
    if (thread < kWords) {
      words[thread] = mine;
      ranks[thread] = offsets[block] + before;
    }
    __syncthreads();
#pragma unroll 4
    for (int w = warp * kWarpWords; w < (warp + 1) * kWarpWords; ++w) {
      const int64_t i = first + w * kWordBits + lane;
      if (i >= numel) break;
      const uint32_t word = words[w];
      body(i, ((word >> lane) & 1) != 0, ranks[w] + __popc(word & ((1u << lane) - 1)));
    }
  }
}

// values [numel], kept [count], all pointers to device memory.
template <typename Value>
__global__ void compact(const Value* __restrict__ values, const uint8_t* __restrict__ bits,
                        int64_t numel, int64_t count, const int64_t* __restrict__ offsets,
                        Value* __restrict__ kept) {
  for_elements(bits, numel, offsets, [&](int64_t i, bool is_kept, int64_t rank) {
    if (is_kept && rank < count) kept[rank] = values[i];
  });
}

template <typename Value>
__global__ void expand(const Value* __restrict__ kept, const uint8_t* __restrict__ bits,
                       int64_t numel, int64_t count, const int64_t* __restrict__ offsets,
                       Value* __restrict__ values) {
  for_elements(bits, numel, offsets, [&](int64_t i, bool is_kept, int64_t rank) {
    values[i] = is_kept && rank < count ? kept[rank] : Value{0};
  });
}

// offsets [blocks + 1] from the bits.
int find_offsets(const uint8_t* bits, int64_t numel, int64_t* offsets, void* stream) {
  const int64_t blocks = blocks_of(numel);
  const int status =
      launch(count_blocks, grid_for(blocks * kWarp), stream, bits, numel, blocks, offsets);
  return status == kOk ? launch(add_up, 1u, stream, offsets, blocks) : status;
}

// Calls body(pointer to an unsigned integer of `width` bytes, null).
template <typename Body>
int with_width(int width, const Body& body) {
  if (width == 1) return body(static_cast<uint8_t*>(nullptr));
  if (width == 2) return body(static_cast<uint16_t*>(nullptr));
  return body(static_cast<uint32_t*>(nullptr));
}

}  // namespace

int compact_by_bits_cuda(const void* values, int width, const uint8_t* bits, int64_t numel,
                         int64_t count, void* kept, int64_t* offsets, void* stream) {
  const int status = find_offsets(bits, numel, offsets, stream);
  if (status != kOk || numel == 0) return status;
  return with_width(width, [&](auto* v) {
    using Value = std::remove_pointer_t<decltype(v)>;
    return launch(compact<Value>, grid_for(blocks_of(numel) * kThreads), stream,
                  static_cast<const Value*>(values), bits, numel, count, offsets,
                  static_cast<Value*>(kept));
  });
}

int expand_by_bits_cuda(const void* kept, int width, const uint8_t* bits, int64_t numel,
                        int64_t count, void* values, int64_t* offsets, void* stream) {
  const int status = find_offsets(bits, numel, offsets, stream);
  if (status != kOk || numel == 0) return status;
  return with_width(width, [&](auto* v) {
    using Value = std::remove_pointer_t<decltype(v)>;
    return launch(expand<Value>, grid_for(blocks_of(numel) * kThreads), stream,
                  static_cast<const Value*>(kept), bits, numel, count, offsets,
                  static_cast<Value*>(values));
  });
}

}  // namespace micronet
