// Tensor cores and asynchronous copies on the host. Part of cuda_on_host.h.
#ifndef MICRONET_TESTS_EMULATOR_TENSOR_CORE_H_
#define MICRONET_TESTS_EMULATOR_TENSOR_CORE_H_

#include <cstdint>

#include "tests/emulator/block.h"

namespace cuda_on_host {

struct Fragments {
  unsigned a[4], b[2];
};

// Each lane makes its four sums of 32 products. The layout of fragments is that of the PTX ISA.
inline void multiply_add(const unsigned (&a)[4], unsigned b0, unsigned b1, int (&sums)[4]) {
  const Block::Exchange<Fragments> all(Block::current, 0xffffffffu,
                                       {{a[0], a[1], a[2], a[3]}, {b0, b1}});
  const unsigned lane = Block::current->lane(), row = lane / 4, columns = lane % 4 * 2;
  for (unsigned t = 0; t < 4; ++t) {  // lanes that have a part of the row and of the columns
    const Fragments of_row = all.seen(row * 4 + t);
    for (unsigned column = 0; column < 2; ++column) {
      const Fragments of_column = all.seen((columns + column) * 4 + t);
      int8_t b[8];
      std::memcpy(b, of_column.b, sizeof b);
      for (unsigned half = 0; half < 2; ++half) {
        const unsigned words[2] = {of_row.a[half], of_row.a[half + 2]};
        uint8_t a[8];
        std::memcpy(a, words, sizeof a);
        int sum = 0;  // 8 products of bytes fit
        for (unsigned k = 0; k < 8; ++k) sum += a[k] * b[k];
        int& into = sums[2 * half + column];
        into = static_cast<int>(static_cast<unsigned>(into) + static_cast<unsigned>(sum));
      }
    }
  }
}

inline void copy_async(void* to, const void* from, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 ||
      reinterpret_cast<uintptr_t>(from) % bytes != 0) {
    fail("an asynchronous copy is not aligned to what it moves");
  }
  Block::current->copies().start(to, from, bytes);
}

inline void commit_copies() { Block::current->copies().commit(); }
inline void wait_for_copies(size_t pending) { Block::current->copies().wait(pending); }

}  // namespace cuda_on_host

#endif  // MICRONET_TESTS_EMULATOR_TENSOR_CORE_H_
