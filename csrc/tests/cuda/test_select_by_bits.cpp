// Choosing by bits by CUDA kernels that run on the host, against plain loops.

#include "tests/cuda/inputs.h"

namespace micronet {
namespace {

void keeps_values_whose_bit_is_set(std::mt19937& random, DType type, int64_t numel, int skip) {
  Elements values = inputs(random, type, numel, skip, kHostile),
           out(type, numel, random() % 4 == 0 ? 1 : skip);
  std::vector<uint8_t> bits = bytes(random, bytes_for(numel));
  CHECK(select_by_bits_cuda(values.data(), type, bits.data(), numel, out.data(), nullptr) == kOk);
  for (int64_t i = 0; i < numel; ++i) CHECK(same(out[i], bit(bits, i) ? values[i] : 0.0f));
}

}  // namespace

void run_tests(std::mt19937& random) {
  on_all_edges([&](DType type, int64_t numel, int skip) {
    keeps_values_whose_bit_is_set(random, type, numel, skip);
  });
}

}  // namespace micronet
