// Masks, bits, codes, compaction and counts against plain loops, however the loop is split.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/check.h"

namespace micronet {
namespace {

void smallest_are_those_of_a_stable_sort(std::mt19937& random, int64_t numel,
                                         const ParallelFor& parallel) {
  std::vector<float> w = normals(random, numel);
  for (float& v : w) v = random() % 2 ? v : std::round(v);  // many ties
  std::vector<int64_t> order(w.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return std::fabs(w[static_cast<size_t>(a)]) < std::fabs(w[static_cast<size_t>(b)]);
  });
  std::vector<uint8_t> mask(static_cast<size_t>(bytes_for(numel)), 0xff);
  for (const int64_t k : {int64_t{0}, numel / 3, numel}) {
    CHECK(smallest_magnitude_mask_cpu(w.data(), kFloat32, numel, k, mask.data(), parallel) == kOk);
    for (int64_t i = 0; i < numel; ++i) CHECK(bit(mask, order[static_cast<size_t>(i)]) == (i >= k));
    for (int64_t i = numel; i < 8 * bytes_for(numel); ++i) CHECK(!bit(mask, i));
  }
  CHECK(smallest_magnitude_mask_cpu(w.data(), kFloat32, numel, numel + 1, mask.data(), parallel) ==
        kBadCount);
  CHECK(smallest_magnitude_mask_cpu(w.data(), kFloat32, numel, -1, mask.data(), parallel) ==
        kBadCount);
  if (numel > 0) {
    w[random() % w.size()] = std::numeric_limits<float>::quiet_NaN();
    CHECK(smallest_magnitude_mask_cpu(w.data(), kFloat32, numel, 0, mask.data(), parallel) ==
          kNotANumber);
  }
}

void bits_come_back_and_choose(std::mt19937& random, int64_t numel, const ParallelFor& parallel) {
  std::vector<uint8_t> flags = bytes(random, numel), again(flags.size());
  for (uint8_t& flag : flags) flag &= 1;
  std::vector<uint8_t> bits(static_cast<size_t>(bytes_for(numel)), 0xff);
  const std::vector<float> values = normals(random, numel);
  std::vector<float> chosen(values.size());
  CHECK(pack_bits_cpu(flags.data(), numel, bits.data(), parallel) == kOk);
  CHECK(unpack_bits_cpu(bits.data(), numel, again.data(), parallel) == kOk);
  CHECK(select_by_bits_cpu(values.data(), kFloat32, bits.data(), numel, chosen.data(), parallel) ==
        kOk);
  CHECK(flags == again);
  int64_t expected = 0, counted = -1;
  for (int64_t i = 0; i < numel; ++i) {
    const size_t at = static_cast<size_t>(i);
    CHECK(bit(bits, i) == (flags[at] != 0));
    CHECK(same(chosen[at], flags[at] ? values[at] : 0.0f));
    expected += chosen[at] != 0.0f;
  }
  CHECK(count_nonzero_cpu(chosen.data(), kFloat32, 1, numel, &counted, parallel) == kOk);
  CHECK(counted == expected);
  int64_t ones = 0;
  for (const uint8_t flag : flags) ones += flag;
  CHECK(count_bits_cpu(bits.data(), numel, &counted) == kOk);
  CHECK(counted == ones);
}

void kept_values_go_back(std::mt19937& random, int64_t numel) {
  const std::vector<uint8_t> bits = bytes(random, bytes_for(numel));
  const std::vector<float> values = normals(random, numel);
  int64_t count = 0;
  for (int64_t i = 0; i < numel; ++i) count += bit(bits, i);
  std::vector<float> kept(static_cast<size_t>(count)), again(values.size());
  CHECK(compact_by_bits_cpu(values.data(), 4, bits.data(), numel, count, kept.data()) == kOk);
  CHECK(expand_by_bits_cpu(kept.data(), 4, bits.data(), numel, count, again.data()) == kOk);
  for (int64_t i = 0; i < numel; ++i) {
    const size_t at = static_cast<size_t>(i);
    CHECK(same(again[at], bit(bits, i) ? values[at] : 0.0f));
  }
  CHECK(compact_by_bits_cpu(values.data(), 4, bits.data(), numel, count + 1, nullptr) == kBadCount);
  CHECK(expand_by_bits_cpu(kept.data(), 4, bits.data(), numel, count - 1, nullptr) == kBadCount);
}

void codes_come_back(std::mt19937& random, int levels, int64_t numel, const ParallelFor& parallel) {
  std::vector<uint8_t> codes = bytes(random, numel), again(codes.size(), 0xff);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(code % levels);
  std::vector<uint8_t> packed(static_cast<size_t>(packed_bytes(numel, levels)), 0xff);
  CHECK(pack_codes_cpu(codes.data(), numel, levels, packed.data(), parallel) == kOk);
  CHECK(unpack_codes_cpu(packed.data(), numel, levels, again.data(), parallel) == kOk);
  CHECK(codes == again);
  if (levels == 256 || numel == 0) return;
  codes[random() % codes.size()] = static_cast<uint8_t>(levels);
  CHECK(pack_codes_cpu(codes.data(), numel, levels, packed.data(), parallel) == kBadCode);
}

}  // namespace

void run_tests(std::mt19937& random) {
  on_every_size([&](int64_t numel, const ParallelFor& parallel) {
    smallest_are_those_of_a_stable_sort(random, numel, parallel);
    bits_come_back_and_choose(random, numel, parallel);
    kept_values_go_back(random, numel);
  });
  for (const ParallelFor& parallel : kRunners) {
    for (const int levels : {2, 3, 4, 5, 6, 7, 9, 11, 12, 16, 17, 33, 65, 129, 256}) {
      for (const int64_t numel : {0, 1, 2, 3, 7, 8, 23, 24, 25, 997, 4096, 4099}) {
        codes_come_back(random, levels, numel, parallel);
      }
    }
  }
}

}  // namespace micronet
