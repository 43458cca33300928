// Masks, bits, codes, compaction and counts against plain loops, however the loop is split.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/check.h"

namespace micronet {
namespace {

// Numbers with many ties, and the masks that a stable sort gives them.
struct Ranking {
  std::vector<float> w;
  std::vector<int64_t> counts;
  std::vector<std::vector<uint8_t>> masks;

  Ranking(std::mt19937& random, int64_t numel)
      : w(normals(random, numel)), counts{0, numel / 3, numel} {
    for (float& v : w) v = random() % 2 ? v : std::round(v);
    std::vector<int64_t> order(w.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return std::fabs(w[static_cast<size_t>(a)]) < std::fabs(w[static_cast<size_t>(b)]);
    });
    for (const int64_t k : counts) {
      masks.emplace_back(static_cast<size_t>(bytes_for(numel)));
      for (int64_t i = k; i < numel; ++i) {
        const int64_t at = order[static_cast<size_t>(i)];
        uint8_t& eight = masks.back()[static_cast<size_t>(at / 8)];
        eight = static_cast<uint8_t>(eight | 1 << at % 8);
      }
    }
  }

  void check(std::mt19937& random, const ParallelFor& parallel) const {
    const int64_t numel = static_cast<int64_t>(w.size());
    std::vector<uint8_t> mask(masks[0].size(), 0xff);
    const auto select = [&](const std::vector<float>& x, int64_t k) {
      return smallest_magnitude_mask_cpu(x.data(), kFloat32, numel, k, mask.data(), parallel);
    };
    for (size_t i = 0; i < counts.size(); ++i) {
      CHECK(select(w, counts[i]) == kOk);
      CHECK(mask == masks[i]);
    }
    CHECK(select(w, numel + 1) == kBadCount);
    CHECK(select(w, -1) == kBadCount);
    if (numel == 0) return;
    std::vector<float> bad = w;
    bad[random() % bad.size()] = std::numeric_limits<float>::quiet_NaN();
    CHECK(select(bad, 0) == kNotANumber);
  }
};

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
  for (const int64_t numel : kSizes) {
    const Ranking ranking(random, numel);
    on_every_loop([&](const ParallelFor& parallel) { ranking.check(random, parallel); });
  }
  on_every_size([&](int64_t numel, const ParallelFor& parallel) {
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
