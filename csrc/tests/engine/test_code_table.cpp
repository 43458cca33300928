// Tables of swish's codes have the code of the definition for every sum.

#include <algorithm>
#include <cmath>

#include "engine/steps/code_table.h"
#include "tests/check.h"

namespace micronet::engine {
namespace {

struct Case {
  std::vector<float> scale, shift;
  std::vector<int64_t> bounds;
  Quantizer quantizer;

  std::optional<CodeTable> table() const { return swish_codes(quantizer, {scale, shift, bounds}); }
};

// As the kernel reads a table, for every sum of every channel; returns how many.
int64_t check_table(const Case& of, const CodeTable& table) {
  const int64_t channels = static_cast<int64_t>(of.scale.size());
  const int64_t most = *std::max_element(of.bounds.begin(), of.bounds.end());
  std::vector<int32_t> sums;
  for (int64_t sum = -most; sum <= most; ++sum) {
    for (size_t c = 0; c < of.scale.size(); ++c) {
      sums.push_back(static_cast<int32_t>(std::clamp(sum, -of.bounds[c], of.bounds[c])));
    }
  }
  std::vector<uint8_t> codes(sums.size());
  FinishTile tile{};
  tile.acc = sums.data(), tile.type = kInt32, tile.acc_stride = tile.out_stride = channels;
  tile.pixels = 2 * most + 1, tile.channels = channels;
  tile.scale = of.scale.data(), tile.shift = of.shift.data(), tile.function = kSwish;
  tile.codes = codes.data(), tile.quantizer = &of.quantizer, tile.table = &table;
  CHECK(kernels().finish_tile(tile));
  CHECK(codes ==
        swish_codes_plainly(sums, of.scale.data(), of.shift.data(), of.scale.size(), of.quantizer));
  return static_cast<int64_t>(codes.size());
}

Case draw(std::mt19937& random, int levels) {
  Case of;
  std::uniform_real_distribution<float> high(0.5f, 9.0f), size(0.0005f, 0.1f), at(-3.0f, 3.0f);
  for (int c = 0; c < 7; ++c) {
    of.scale.push_back(random() % 2 == 0 ? size(random) : -size(random));
    of.shift.push_back(at(random));
    of.bounds.push_back(1 + random() % 900);
  }
  of.quantizer = make_quantizer(-0.2784645f, high(random), levels, kAffine);
  return of;
}

// Four bits of common ranges have a table; two and three bits, too.
void every_sum_has_its_code(std::mt19937& random) {
  int drawn = 0, found = 0;
  for (const int levels : {16, 16, 16, 8, 4, 2, 16, 16}) {
    for (int round = 0; round < 3; ++round, ++drawn) {
      const Case of = draw(random, levels);
      const std::optional<CodeTable> table = of.table();
      if (!table) continue;
      ++found;
      CHECK(check_table(of, *table) > 0);
    }
  }
  CHECK(found * 10 >= drawn * 9);
}

// A float beyond 0.3 from which on codes are those of `target`, but for a few next to it.
float threshold_of(const Quantizer& q, float target) {
  float low = 0.3f, high = 16.0f;
  for (int i = 0; i < 60; ++i) {
    const float middle = low + (high - low) / 2.0f;
    (quantize(swish(middle), q) >= target ? high : low) = middle;
  }
  return high;
}

// Sums that fall where codes go back and forth: the argument of one is each float around a
// threshold in turn.
void arguments_around_a_threshold(std::mt19937& random) {
  const Quantizer q = make_quantizer(-0.2784645f, 3.0f, 16, kAffine);
  for (int round = 0; round < 40; ++round) {
    const float high = threshold_of(q, static_cast<float>(2 + random() % 12));
    Case of{{1.0f}, {0.0f}, {0}, q};
    for (int step = -20; step <= 20; ++step) {
      of.shift[0] = high;
      for (int i = 0; i < std::abs(step); ++i) {
        of.shift[0] = std::nextafter(of.shift[0], step > 0 ? INFINITY : -INFINITY);
      }
      const std::optional<CodeTable> table = of.table();
      CHECK(table.has_value());
      check_table(of, *table);
    }
  }
}

struct Start {
  Quantizer quantizer;
  float at;
};

Start draw_start(std::mt19937& random) {
  std::uniform_real_distribution<float> most(2.0f, 9.0f);
  const Quantizer q = make_quantizer(-0.2784645f, most(random), 16, kAffine);
  return {q, threshold_of(q, static_cast<float>(4 + random() % 10))};
}

// Every sum with an argument in a range of floats is in the range of sums, those too that are no
// floats themselves.
void no_sum_is_passed_by(std::mt19937& random) {
  std::uniform_real_distribution<float> at(-9.0f, 9.0f), exponent(-28.0f, 2.0f);
  int64_t inside = 0;
  for (int round = 0; round < 4000; ++round) {
    const int64_t few = 1 + random() % 900, many = (int64_t{1} << 24) + random() % (1 << 26);
    const int64_t bound = random() % 4 == 0 ? 0 : random() % 4 == 0 ? many : few;
    float scale = std::exp2(exponent(random)) * (random() % 2 == 0 ? 1.0f : -1.0f);
    if (round % 50 == 0) scale = 0.0f;
    // From the argument of one of the sums, or from a float beside it.
    const int64_t of = static_cast<int64_t>(random()) % (2 * bound + 1) - bound;
    const float shift = at(random) - static_cast<float>(of) * scale;
    const ChannelSums channel(scale, shift, bound);
    float low = channel.argument_of(static_cast<double>(of));
    for (unsigned step = random() % 3; step > 0; --step) low = std::nextafter(low, 9.0f);
    float high = low;
    for (unsigned step = random() % 129; step > 0; --step) high = std::nextafter(high, 9.0f);
    const ChannelSums::Range sums = channel.within(low, high);
    CHECK(sums.first >= static_cast<double>(-bound) && sums.last <= static_cast<double>(bound));
    for (int64_t sum = std::max(-bound, of - 2000); sum <= std::min(bound, of + 2000); ++sum) {
      const double whole = static_cast<double>(scale == 0.0f ? 0 : sum);
      const float t = channel.argument_of(static_cast<double>(sum));
      if (t < low || t > high) continue;
      ++inside;
      CHECK(sums.first <= whole && whole <= sums.last);
    }
  }
  CHECK(inside > 1000);
}

// Sums so close that several have their arguments about a threshold, on either side of it and at
// the ends of what there is, with scales of either sign.
void many_sums_around_a_threshold(std::mt19937& random) {
  std::uniform_real_distribution<float> exponent(-22.0f, -10.0f), share(-1.2f, 1.2f);
  int found = 0;
  for (int round = 0; round < 60; ++round) {
    const Start start = draw_start(random);
    Case of{{}, {}, {}, start.quantizer};
    for (int c = 0; c < 3; ++c) {
      const int64_t bound = 1 + random() % 500;
      const float scale = std::exp2(exponent(random)) * (random() % 2 == 0 ? 1.0f : -1.0f);
      of.scale.push_back(scale), of.bounds.push_back(bound);
      of.shift.push_back(start.at + share(random) * scale * static_cast<float>(bound));
    }
    const std::optional<CodeTable> table = of.table();
    if (!table) continue;
    ++found;
    check_table(of, *table);
  }
  CHECK(found > 20);
}

// More sums about a threshold than can be looked at, and thresholds without number: no table.
void what_has_no_table(std::mt19937& random) {
  Case of = draw(random, 16);
  of.scale[3] = 1e-30f, of.shift[3] = 0.0f;
  CHECK(of.table().has_value());  // all its sums are far from any threshold
  const Quantizer q = make_quantizer(-0.2784645f, 3.0f, 16, kAffine);
  const float at = threshold_of(q, quantize(swish(0.3f), q) + 1.0f);
  CHECK(!swish_codes(q, {{1e-12f}, {at}, {100000}}).has_value());
  CHECK(!draw(random, 256).table().has_value());
}

}  // namespace
}  // namespace micronet::engine

namespace micronet {

void run_tests(std::mt19937& random) {
  on_every_instruction_set([&] { engine::every_sum_has_its_code(random); });
  engine::arguments_around_a_threshold(random);
  engine::no_sum_is_passed_by(random);
  engine::many_sums_around_a_threshold(random);
  engine::what_has_no_table(random);
}

}  // namespace micronet
