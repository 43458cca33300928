// Tensor cores and asynchronous copies on the host. Part of cuda_on_host.h.
#ifndef MICRONET_TESTS_EMULATOR_TENSOR_CORE_H_
#define MICRONET_TESTS_EMULATOR_TENSOR_CORE_H_

#include <cstdint>

#include "tests/emulator/block.h"
#include "tests/emulator/products.h"

namespace cuda_on_host {

struct Fragments {
  unsigned a[4], b[2];
};

// Each lane makes its four sums of 32 products. The layout of fragments is that of the PTX ISA.
inline void multiply_add(const unsigned (&a)[4], unsigned b0, unsigned b1, int (&sums)[4]) {
  const Block::Exchange<Fragments> all(Block::current, 0xffffffffu,
                                       {{a[0], a[1], a[2], a[3]}, {b0, b1}});
  const unsigned lane = Block::current->lane(), row = lane / 4, column = lane % 4 * 2;
  uint8_t rows[2][32];
  int8_t columns[2][32];
  for (unsigned t = 0; t < 4; ++t) {  // lanes that have a part of the row and of the columns
    const Fragments of_row = all.seen(row * 4 + t);
    for (unsigned half = 0; half < 2; ++half) {
      const unsigned words[2] = {of_row.a[half], of_row.a[half + 2]};
      std::memcpy(rows[half] + 8 * t, words, sizeof words);
      const Fragments of_column = all.seen((column + half) * 4 + t);
      std::memcpy(columns[half] + 8 * t, of_column.b, sizeof of_column.b);
    }
  }
  add_products(rows, columns, sums);
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
