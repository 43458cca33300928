// Weight launchers, masks, bits and counts against plain loops, however the loop is split.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "check.h"

namespace micronet {
namespace {

struct Shape {
  int64_t channels, each;
};
constexpr Shape kShapes[] = {{1, 1}, {3, 7}, {8, 8}, {5, 17}, {48, 25}, {13, 65}, {2, 40009}};

void channels_have_their_own_ranges(std::mt19937& random, const Shape& shape, bool masked,
                                    const ParallelFor& parallel) {
  const int64_t numel = shape.channels * shape.each;
  const std::vector<float> w = normals(random, numel);
  const std::vector<uint8_t> bits = bytes(random, bytes_for(numel));
  const uint8_t* mask = masked ? bits.data() : nullptr;
  const size_t channels = static_cast<size_t>(shape.channels);
  std::vector<float> w_hat(w.size()), workspace(w.size());
  std::vector<float> scale(channels), zero(channels), scale2(channels), zero2(channels);
  std::vector<uint8_t> codes(w.size());
  for (const int scheme : {kAffine, kDistillerSymmetric}) {
    CHECK(fake_quant_per_channel_cpu(w.data(), mask, shape.channels, shape.each, 16, scheme,
                                     w_hat.data(), scale.data(), zero.data(), parallel) == kOk);
    CHECK(quantize_per_channel_cpu(w.data(), mask, shape.channels, shape.each, 16, scheme,
                                   workspace.data(), codes.data(), scale2.data(), zero2.data(),
                                   parallel) == kOk);
    CHECK(scale == scale2 && zero == zero2);
    for (int64_t c = 0; c < shape.channels; ++c) {
      const auto value = [&](int64_t i) {
        return !masked || bit(bits, i) ? w[static_cast<size_t>(i)] : 0.0f;
      };
      const int64_t begin = c * shape.each;
      float lo = value(begin), hi = lo;
      for (int64_t i = begin; i < begin + shape.each; ++i) {
        lo = std::fmin(lo, value(i));
        hi = std::fmax(hi, value(i));
      }
      const Quantiser q = make_quantiser(lo, hi, 16, scheme);
      CHECK(same(scale[static_cast<size_t>(c)], q.scale));
      CHECK(same(zero[static_cast<size_t>(c)], q.zero_point));
      for (int64_t i = begin; i < begin + shape.each; ++i) {
        const size_t at = static_cast<size_t>(i);
        const float code = quantise(value(i), q);
        CHECK(same(w_hat[at], dequantise(code, q)));
        CHECK(codes[at] == static_cast<uint8_t>(static_cast<int8_t>(code)));
      }
    }
  }
}

void smallest_are_those_of_a_stable_sort(std::mt19937& random, int64_t numel) {
  std::vector<float> w = normals(random, numel);
  for (float& v : w) v = random() % 2 ? v : std::round(v);  // many ties
  std::vector<int64_t> order(w.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return std::fabs(w[static_cast<size_t>(a)]) < std::fabs(w[static_cast<size_t>(b)]);
  });
  std::vector<uint8_t> mask(static_cast<size_t>(bytes_for(numel)), 0xff);
  for (const int64_t k : {int64_t{0}, numel / 3, numel}) {
    CHECK(smallest_magnitude_mask_cpu(w.data(), numel, k, mask.data()) == kOk);
    for (int64_t i = 0; i < numel; ++i) CHECK(bit(mask, order[static_cast<size_t>(i)]) == (i >= k));
    for (int64_t i = numel; i < 8 * bytes_for(numel); ++i) CHECK(!bit(mask, i));
  }
  CHECK(smallest_magnitude_mask_cpu(w.data(), numel, numel + 1, mask.data()) == kBadCount);
  CHECK(smallest_magnitude_mask_cpu(w.data(), numel, -1, mask.data()) == kBadCount);
  if (numel > 0) {
    w[random() % w.size()] = std::numeric_limits<float>::quiet_NaN();
    CHECK(smallest_magnitude_mask_cpu(w.data(), numel, 0, mask.data()) == kNotANumber);
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
  CHECK(select_by_bits_cpu(values.data(), bits.data(), numel, chosen.data(), parallel) == kOk);
  CHECK(flags == again);
  int64_t expected = 0, counted = -1;
  for (int64_t i = 0; i < numel; ++i) {
    const size_t at = static_cast<size_t>(i);
    CHECK(bit(bits, i) == (flags[at] != 0));
    CHECK(same(chosen[at], flags[at] ? values[at] : 0.0f));
    expected += chosen[at] != 0.0f;
  }
  CHECK(count_nonzero_cpu(chosen.data(), 1, numel, &counted, parallel) == kOk);
  CHECK(counted == expected);
}

}  // namespace
}  // namespace micronet

int main(int argc, char** argv) {
  std::mt19937 random = micronet::new_random(argc, argv);
  for (const int64_t numel : micronet::kSizes) {
    micronet::smallest_are_those_of_a_stable_sort(random, numel);
  }
  for (const micronet::ParallelFor& parallel : micronet::kRunners) {
    for (const int64_t numel : micronet::kSizes) {
      micronet::bits_come_back_and_choose(random, numel, parallel);
    }
    for (const micronet::Shape& shape : micronet::kShapes) {
      micronet::channels_have_their_own_ranges(random, shape, false, parallel);
      micronet::channels_have_their_own_ranges(random, shape, true, parallel);
    }
  }
}
