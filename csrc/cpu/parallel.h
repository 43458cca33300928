// A lambda for the caller's parallel-for, and how tensors are cut into pieces.
#ifndef MICRONET_CPU_PARALLEL_H_
#define MICRONET_CPU_PARALLEL_H_

#include <cstdint>

#include "include/core.h"

namespace micronet {

// Below this many elements a thread costs more than it saves (as in PyTorch's own loops).
constexpr int64_t kGrainElements = 32768;

// Calls body(begin, end) over pieces of [0, count), each unit being `elements_per_unit` elements.
template <typename Body>
void parallel_for(const ParallelFor& parallel, int64_t count, int64_t elements_per_unit,
                  const Body& body) {
  const int64_t grain = elements_per_unit < kGrainElements ? kGrainElements / elements_per_unit : 1;
  parallel.run(
      count, grain,
      [](void* context, int64_t begin, int64_t end) {
        (*static_cast<const Body*>(context))(begin, end);
      },
      const_cast<Body*>(&body));
}

// Elements of a block: whole bytes of bits, whole vectors and whole cache lines of any type, so
// that no two threads share one.
constexpr int64_t kBlock = 4096;

// Calls body(first element, number of elements) over whole blocks of a tensor.
template <typename Body>
void for_blocks(const ParallelFor& parallel, int64_t numel, const Body& body) {
  const int64_t blocks = (numel + kBlock - 1) / kBlock;
  parallel_for(parallel, blocks, kBlock, [&](int64_t begin, int64_t end) {
    const int64_t from = begin * kBlock, to = end * kBlock < numel ? end * kBlock : numel;
    body(from, to - from);
  });
}

// A tensor cut into the same few pieces whatever the threads, for reductions.
struct Pieces {
  static constexpr int64_t kMost = 64;
  int64_t count, length, numel;

  explicit Pieces(int64_t all) : numel(all) {
    const int64_t wanted = (numel + kGrainElements - 1) / kGrainElements;
    count = wanted < 1 ? 1 : wanted < kMost ? wanted : kMost;
    length = ((numel + count - 1) / count + kBlock - 1) / kBlock * kBlock;
  }

  // Calls body(piece, first element, number of elements); pieces at the end may be empty.
  template <typename Body>
  void run(const ParallelFor& parallel, const Body& body) const {
    parallel_for(parallel, count, length > 0 ? length : 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t from = p * length < numel ? p * length : numel;
        const int64_t to = from + length < numel ? from + length : numel;
        body(p, from, to - from);
      }
    });
  }
};

static inline int64_t width_of(DType type) { return type == kFloat32 ? 4 : 2; }

static inline const void* at(const void* p, DType type, int64_t i) {
  return static_cast<const char*>(p) + i * width_of(type);
}
static inline void* at(void* p, DType type, int64_t i) {
  return static_cast<char*>(p) + i * width_of(type);
}

// Outputs larger than this do not stay in the second-level caches of two cores until they are read,
// and are better written past them.
constexpr int64_t kCacheBytes = int64_t{4} << 20;

// Whether to write past the caches; every vector of the output has to be aligned for that.
static inline bool leaves_cache(const void* out, int64_t bytes) {
  return bytes > kCacheBytes && reinterpret_cast<uintptr_t>(out) % 64 == 0;
}

}  // namespace micronet

#endif  // MICRONET_CPU_PARALLEL_H_
