// The products of a tensor core. Part of cuda_on_host.h.
#ifndef MICRONET_TESTS_EMULATOR_PRODUCTS_H_
#define MICRONET_TESTS_EMULATOR_PRODUCTS_H_

#include <cstdint>

namespace cuda_on_host {

// Adds the sums of 32 products of each of two rows of bytes with each of two columns.
void add_products(const uint8_t (&rows)[2][32], const int8_t (&columns)[2][32], int (&sums)[4]);

}  // namespace cuda_on_host

#endif  // MICRONET_TESTS_EMULATOR_PRODUCTS_H_
