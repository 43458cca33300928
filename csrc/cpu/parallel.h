// A lambda for the caller's parallel-for.
#ifndef MICRONET_CPU_PARALLEL_H_
#define MICRONET_CPU_PARALLEL_H_

#include <cstdint>

#include "../core.h"

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

// Elements per block of loops that write packed bits: whole bytes, so no two threads share one.
constexpr int64_t kBlock = 4096;

inline int64_t blocks_for(int64_t numel) { return (numel + kBlock - 1) / kBlock; }

inline int64_t block_size(int64_t block, int64_t numel) {
  const int64_t left = numel - block * kBlock;
  return left < kBlock ? left : kBlock;
}

}  // namespace micronet

#endif  // MICRONET_CPU_PARALLEL_H_
