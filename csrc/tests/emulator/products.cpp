// What tensor cores add up, apart from the kernels and without sanitizers: most of the time of a
// convolution is here.

#include "tests/emulator/products.h"

namespace cuda_on_host {

void add_products(const uint8_t (&rows)[2][32], const int8_t (&columns)[2][32], int (&sums)[4]) {
  for (int i = 0; i < 4; ++i) {
    int sum = 0;  // 32 products of bytes fit
    for (int k = 0; k < 32; ++k) sum += rows[i / 2][k] * columns[i % 2][k];
    sums[i] = static_cast<int>(static_cast<unsigned>(sums[i]) + static_cast<unsigned>(sum));
  }
}

}  // namespace cuda_on_host
