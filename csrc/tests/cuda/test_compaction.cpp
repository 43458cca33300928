// Compaction by CUDA kernels that run on the host, against plain loops.

#include "tests/cuda/inputs.h"

namespace micronet {
namespace {

// Bits of which all, none, one in sixteen or half are 1; those beyond the end too, to be ignored.
std::vector<uint8_t> some_bits(std::mt19937& random, int64_t size) {
  std::vector<uint8_t> bits = bytes(random, size);
  const unsigned kind = static_cast<unsigned>(random() % 4);
  for (uint8_t& byte : bits) {
    if (kind == 0) byte = 0xff;
    if (kind == 1) byte = 0;
    if (kind == 2) byte &= static_cast<uint8_t>(random() & random() & random());
  }
  return bits;
}

struct Trial {
  int width;
  int64_t numel;
  int skip;
  std::vector<uint8_t> bits, values;
  std::vector<int64_t> offsets, places;

  Trial(std::mt19937& random, int width, int64_t numel, int skip)
      : width(width),
        numel(numel),
        skip(skip),
        bits(some_bits(random, bytes_for(numel) + skip)),
        values(bytes(random, numel * width)),
        offsets(static_cast<size_t>((numel + kCompactBlock - 1) / kCompactBlock + 1), -1) {
    for (int64_t i = 0; i < numel; ++i) {
      if (bit(bits, i + 8 * skip)) places.push_back(i);
    }
  }

  const uint8_t* flags() const { return bits.data() + skip; }
  int64_t ones() const { return static_cast<int64_t>(places.size()); }

  bool are_equal(const std::vector<uint8_t>& a, int64_t i, const std::vector<uint8_t>& b,
                 int64_t j) const {
    return std::equal(a.begin() + i * width, a.begin() + (i + 1) * width, b.begin() + j * width);
  }
};

// Room for `count` values, fewer or more than there are ones.
void keeps_values_in_order(Trial t, int64_t count) {
  std::vector<uint8_t> kept = dirty(count * t.width);
  CHECK(compact_by_bits_cuda(t.values.data(), t.width, t.flags(), t.numel, count, kept.data(),
                             t.offsets.data(), nullptr) == kOk);
  CHECK(t.offsets.back() == t.ones());
  for (int64_t k = 0; k < t.ones() && k < count; ++k) {
    CHECK(t.are_equal(kept, k, t.values, t.places[static_cast<size_t>(k)]));
  }
}

void puts_values_back(std::mt19937& random, Trial t, int64_t count) {
  const std::vector<uint8_t> kept = bytes(random, count * t.width);
  const std::vector<uint8_t> zero(static_cast<size_t>(t.width));
  t.values = dirty(t.numel * t.width);
  CHECK(expand_by_bits_cuda(kept.data(), t.width, t.flags(), t.numel, count, t.values.data(),
                            t.offsets.data(), nullptr) == kOk);
  CHECK(t.offsets.back() == t.ones());
  int64_t k = 0;
  for (int64_t i = 0; i < t.numel; ++i) {
    const bool is_kept = k < t.ones() && t.places[static_cast<size_t>(k)] == i;
    const bool is_there = is_kept && k < count;
    CHECK(is_there ? t.are_equal(t.values, i, kept, k) : t.are_equal(t.values, i, zero, 0));
    k += is_kept;
  }
}

}  // namespace

void run_tests(std::mt19937& random) {
  for (const int width : {1, 2, 4}) {
    for (const int64_t numel : kTileSizes) {
      for (const int skip : {0, 1}) {
        for (const int64_t more : {-1, 0, 1}) {
          const Trial t(random, width, numel, skip);
          const int64_t count = t.ones() + more < 0 ? 0 : t.ones() + more;
          keeps_values_in_order(t, count);
          puts_values_back(random, t, count);
        }
      }
    }
  }
  // More blocks than are added up at once.
  const Trial large(random, 1, kCompactBlock * 2050 + 7, 0);
  keeps_values_in_order(large, large.ones());
}

}  // namespace micronet
