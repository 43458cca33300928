// Packed codes by CUDA kernels that run on the host, against plain loops.

#include "tests/cuda/inputs.h"

namespace micronet {
namespace {

// The stream of groups, bit by bit.
std::vector<uint8_t> packed_by_hand(const uint8_t* codes, int64_t numel, int levels) {
  const CodeGroup group = code_group(levels);
  std::vector<uint8_t> packed(static_cast<size_t>(packed_bytes(numel, levels)));
  int64_t next = 0;
  for (int64_t first = 0; first < numel; first += group.size) {
    uint32_t word = 0, place = 1;
    for (int64_t i = first; i < first + group.size && i < numel; ++i) {
      word += place * codes[i];
      place *= static_cast<uint32_t>(levels);
    }
    for (int b = 0; b < group.bits; ++b, ++next) {
      const unsigned one = (word >> b) & 1;
      packed[static_cast<size_t>(next / 8)] |= static_cast<uint8_t>(one << (next % 8));
    }
  }
  return packed;
}

void packs_as_by_hand_and_back(std::mt19937& random, int levels, int64_t numel, int skip,
                               unsigned most) {
  std::vector<uint8_t> codes = bytes(random, numel + skip);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(code % most);
  std::vector<uint8_t> packed = dirty(packed_bytes(numel, levels) + skip);
  std::vector<uint8_t> again = dirty(numel + skip);
  CHECK(pack_codes_cuda(codes.data() + skip, numel, levels, packed.data() + skip, nullptr) == kOk);
  const std::vector<uint8_t> expected = packed_by_hand(codes.data() + skip, numel, levels);
  CHECK(std::equal(expected.begin(), expected.end(), packed.begin() + skip));
  CHECK(unpack_codes_cuda(packed.data() + skip, numel, levels, again.data() + skip, nullptr) ==
        kOk);
  if (most > static_cast<unsigned>(levels)) return;
  CHECK(std::equal(codes.begin() + skip, codes.end(), again.begin() + skip));
}

// Also groups that no codes are packed to.
void unpacks_anything_as_by_division(std::mt19937& random, int levels, int64_t numel) {
  const CodeGroup group = code_group(levels);
  const std::vector<uint8_t> packed = bytes(random, packed_bytes(numel, levels));
  std::vector<uint8_t> codes = dirty(numel);
  CHECK(unpack_codes_cuda(packed.data(), numel, levels, codes.data(), nullptr) == kOk);
  for (int64_t i = 0; i < numel; ++i) {
    uint32_t word = 0;
    for (int b = 0; b < group.bits; ++b) {
      word |= static_cast<uint32_t>(bit(packed, i / group.size * group.bits + b)) << b;
    }
    for (int64_t c = 0; c < i % group.size; ++c) word /= static_cast<uint32_t>(levels);
    CHECK(codes[static_cast<size_t>(i)] == word % static_cast<uint32_t>(levels));
  }
}

}  // namespace

void run_tests(std::mt19937& random) {
  for (int levels = 2; levels <= 256; ++levels) {
    packs_as_by_hand_and_back(random, levels, 1000, 0, static_cast<unsigned>(levels));
    unpacks_anything_as_by_division(random, levels, 1000);
  }
  for (const int levels : {2, 3, 5, 6, 7, 11, 16, 100, 256}) {
    for (const int64_t numel : kTileSizes) {
      for (const int skip : {0, 1}) {
        packs_as_by_hand_and_back(random, levels, numel, skip, static_cast<unsigned>(levels));
      }
    }
    unpacks_anything_as_by_division(random, levels, 20011);
  }
}

}  // namespace micronet
