// Packed bits and counts by CUDA kernels that run on the host, against plain loops.

#include "tests/cuda/inputs.h"

namespace micronet {
namespace {

void bits_are_packed_and_counted(std::mt19937& random, int64_t numel, int skip) {
  std::vector<uint8_t> flags = bytes(random, numel + skip), again = dirty(numel + skip);
  for (uint8_t& flag : flags) flag &= 1;
  std::vector<uint8_t> bits = dirty(bytes_for(numel) + skip);
  uint8_t* packed = bits.data() + skip;
  CHECK(pack_bits_cuda(flags.data() + skip, numel, packed, nullptr) == kOk);
  int64_t expected = 0, count = -1;
  for (int64_t i = 0; i < 8 * bytes_for(numel); ++i) {
    const bool flag = i < numel && flags[static_cast<size_t>(i + skip)] != 0;
    CHECK(bit(bits, i + 8 * skip) == flag);
    expected += flag;
  }
  CHECK(unpack_bits_cuda(packed, numel, again.data() + skip, nullptr) == kOk);
  CHECK(std::equal(flags.begin() + skip, flags.end(), again.begin() + skip));
  if (numel % 8 != 0) packed[numel / 8] |= static_cast<uint8_t>(0xffu << (numel % 8));
  CHECK(count_bits_cuda(packed, numel, &count, nullptr) == kOk);
  CHECK(count == expected);
}

void zeros_are_not_counted(std::mt19937& random, DType type, int64_t channels, int64_t each,
                           int skip) {
  Elements w = inputs(random, type, channels * each, skip, kHostile);
  std::vector<int64_t> counts(static_cast<size_t>(channels), -1);
  CHECK(count_nonzero_cuda(w.data(), type, channels, each, counts.data(), nullptr) == kOk);
  for (int64_t c = 0; c < channels; ++c) {
    int64_t expected = 0;
    for (int64_t i = c * each; i < (c + 1) * each; ++i) expected += w[i] != 0.0f;
    CHECK(counts[static_cast<size_t>(c)] == expected);
  }
}

}  // namespace

void run_tests(std::mt19937& random) {
  for (const int64_t numel : kTileSizes) {
    for (const int skip : {0, 1}) bits_are_packed_and_counted(random, numel, skip);
  }
  bits_are_packed_and_counted(random, 140009, 0);
  on_all_edges([&](DType type, int64_t numel, int skip) {
    zeros_are_not_counted(random, type, 1, numel, skip);
    zeros_are_not_counted(random, type, 3, numel, skip);
  });
  zeros_are_not_counted(random, kFloat32, 0, 9, 0);
}

}  // namespace micronet
