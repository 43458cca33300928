// exp within 2 ulp and what is added to it, over every 97th float from a random one on where they
// vary, over fewer elsewhere, and at the edges; swish on either side of its least value, over every
// float; what swish and sigmoid make of the ends.

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/kernels.h"
#include "include/function.h"
#include "tests/check.h"

namespace micronet {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The distance of two floats in steps from one to the next; results are never negative.
int64_t steps(float a, float b) {
  return std::llabs(static_cast<int64_t>(word_of(a)) - static_cast<int64_t>(word_of(b)));
}

// e^x by its definition. 2^n is applied in two factors, so that results below 2^-126 are rounded
// once, at the end.
float exp_float(float x) {
  const Exponential e = exponential(clamp_keep_nan(x, -104.0f, 89.0f));
  const float n = e.shifted - kShift, half = (n * 0.5f + kShift) - kShift;
  return (e.p * power_of_two(half + kShift)) * power_of_two((n - half) + kShift);
}

void check_exp(float x) {
  const float ours = exp_float(x);
  CHECK(same(one_plus_exp(x), 1.0f + ours));
  if (x != x) {
    CHECK(ours != ours);
  } else {
    CHECK(steps(ours, static_cast<float>(std::exp(static_cast<double>(x)))) <= 2);
  }
}

void exp_is_within_two_ulp(std::mt19937& random) {
  for (uint64_t bits = random() % 97; bits < (uint64_t{1} << 32);) {
    const uint32_t word = static_cast<uint32_t>(bits);
    float x;
    std::memcpy(&x, &word, 4);
    check_exp(x);
    // Nearer to 0 all results are 1, farther they are 0, infinite or NaN: nine in ten floats.
    const float magnitude = std::fabs(x);
    bits += magnitude >= 0x1p-26f && magnitude < 128.0f ? 97 : 9973;
  }
  // Where results become infinite, subnormal or 0.
  for (const float edge : {88.37f, 88.72f, -86.0f, -87.33f, -103.28f, -103.97f, -104.0f, 89.0f}) {
    float x = edge - 0.01f;
    while (x < edge + 0.01f) {
      check_exp(x);
      x = std::nextafter(x, kInfinity);
    }
  }
  for (const float x : {0.0f, -0.0f, kInfinity, -kInfinity, 3e38f, -3e38f, 1e-45f}) check_exp(x);
  CHECK(exp_float(0.0f) == 1.0f && exp_float(kInfinity) == kInfinity);
  CHECK(exp_float(-kInfinity) == 0.0f);
}

// Floats in their order: 0 is the 0th, -0 as well.
float nth_float(int64_t n) {
  const uint32_t magnitude = static_cast<uint32_t>(n < 0 ? -n : n);
  const uint32_t word = n < 0 ? magnitude | 0x80000000u : magnitude;
  float x;
  std::memcpy(&x, &word, 4);
  return x;
}

int64_t number_of(float x) {
  const int64_t magnitude = word_of(x) & 0x7fffffffu;
  return x < 0.0f ? -magnitude : magnitude;
}

// What swish makes of the arguments on one side of its least value, in intervals of half a spacing.
// None is below what an interval before the neighboring one has. Away from the least value and
// from 0, none is below that of an argument kSwishFloats floats before.
struct Order {
  int64_t interval = 0;
  float before = -kInfinity, neighbor = -kInfinity, most = -kInfinity;
  bool holds = true;
  // Of steep arguments: the most of those that are kSwishFloats before, the last ones, and what
  // each has to reach.
  float long_before = -kInfinity;
  std::vector<float> last, limits;

  static int64_t interval_of(float z) {
    const double from = std::fabs(static_cast<double>(z) - static_cast<double>(kLeastSwishAt));
    return static_cast<int64_t>(from * 2.0 / kSwishSpacing);
  }

  static bool is_steep(float z) {
    return std::fabs(z - kLeastSwishAt) >= kSwishFlat && std::fabs(z) >= kSwishDense;
  }

  // Arguments in their order. Those of an interval lie side by side, and so do those that are
  // steep.
  void add(const std::vector<float>& z, const std::vector<float>& values) {
    for (size_t from = 0, to; from < z.size(); from = to) {
      to = end_of_run(z, from, interval_of);
      begin_interval(interval_of(z[from]));
      add_near(values.data() + from, to - from);
    }
    for (size_t from = 0, to; from < z.size(); from = to) {
      to = end_of_run(z, from, is_steep);
      if (is_steep(z[from])) {
        add_steep(values.data() + from, to - from);
      } else {
        last.clear();  // floats that are left out are none that lie between
      }
    }
  }

 private:
  // Where what `of` says of an argument changes.
  template <typename Of>
  static size_t end_of_run(const std::vector<float>& z, size_t from, const Of& of) {
    const auto same_as_first = [&, first = of(z[from])](float x) { return of(x) == first; };
    return static_cast<size_t>(
        std::partition_point(z.begin() + static_cast<int64_t>(from), z.end(), same_as_first) -
        z.begin());
  }

  void begin_interval(int64_t next) {
    if (next == interval) return;
    before = std::fmax(before, next == interval + 1 ? neighbor : std::fmax(neighbor, most));
    neighbor = next == interval + 1 ? most : -kInfinity;
    interval = next;
    most = -kInfinity;
  }

  void add_near(const float* values, size_t count) {
    const float least = before;
    int below = 0;
    for (size_t i = 0; i < count; ++i) below |= !(values[i] >= least);
    holds &= below == 0;
    most = std::max(most, most_of(values, count));
  }

  void add_steep(const float* values, size_t count) {
    last.insert(last.end(), values, values + count);
    const size_t old = last.size() > kSwishFloats ? last.size() - kSwishFloats : 0;
    limits.resize(old);
    float highest = long_before;
    for (size_t i = 0; i < old; ++i) {
      highest = last[i] > highest ? last[i] : highest;
      limits[i] = highest;
    }
    long_before = highest;
    const float *late = last.data() + kSwishFloats, *limit = limits.data();
    int below = 0;
    for (size_t i = 0; i < old; ++i) below |= !(late[i] >= limit[i]);
    holds &= below == 0;
    last.erase(last.begin(), last.begin() + static_cast<int64_t>(old));
  }

  // By lanes, which do not wait for each other.
  static float most_of(const float* values, size_t count) {
    constexpr size_t kMany = 16;
    float lanes[kMany];
    std::fill(lanes, lanes + kMany, -kInfinity);
    const auto add = [&](size_t l, float v) { lanes[l] = v > lanes[l] ? v : lanes[l]; };
    size_t i = 0;
    for (; i + kMany <= count; i += kMany) {
      for (size_t l = 0; l < kMany; ++l) add(l, values[i + l]);
    }
    for (; i < count; ++i) add(0, values[i]);
    return *std::max_element(lanes, lanes + kMany);
  }
};

// The definition, compiled here for wide vectors: the tests' kernels are not.
#ifdef MICRONET_X86
__attribute__((target_clones("avx512f", "fma", "default")))
#endif
void swish_of(const float* z, size_t count, float* values) {
  for (size_t i = 0; i < count; ++i) values[i] = swish(z[i]);
}

#ifdef MICRONET_X86
__attribute__((target_clones("avx512f", "fma", "default")))
#endif
void floats_from(int64_t n, int64_t step, size_t count, float* floats) {
  for (size_t i = 0; i < count; ++i) floats[i] = nth_float(n + static_cast<int64_t>(i) * step);
}

// Both kernels make of near and of other arguments what the definition makes of them.
void kernels_have(const std::vector<float>& z, const std::vector<float>& values) {
  static const std::vector<float> one(z.size(), 1.0f), zero(z.size(), 0.0f);
  static std::vector<float> found(z.size());
  FinishTile tile{};
  tile.acc = z.data(), tile.type = kValue, tile.function = kSwish, tile.values = found.data();
  tile.pixels = 1, tile.channels = static_cast<int64_t>(z.size());
  tile.scale = one.data(), tile.shift = zero.data();
  const float farthest = std::fmax(std::fabs(z.front()), std::fabs(z.back()));
  tile.is_near = farthest <= kNearSwish;
  kernels().finish_tile(tile);
  CHECK(std::memcmp(found.data(), values.data(), 4 * z.size()) == 0);
}

// Every float from the least value of swish to where swish is the identity, or 0; around 0, where
// floats are many and swish is half of them, every 97th.
void swish_is_in_order_on_either_side(int64_t direction) {
  const float end = direction > 0 ? 100.0f : -100.0f;
  const size_t chunk = 4096;
  std::vector<float> z(chunk), values(chunk);
  Order order;
  int64_t n = number_of(kLeastSwishAt) + (direction > 0 ? 1 : 0);
  const auto is_dense = [](int64_t at) { return std::fabs(nth_float(at)) < kSwishDense; };
  while ((number_of(end) - n) * direction >= 0) {
    const int64_t far = 97 * direction, count = static_cast<int64_t>(chunk);
    const int64_t step = is_dense(n) && is_dense(n + count * far) ? far : direction;
    floats_from(n, step, chunk, z.data());
    n += count * step;
    swish_of(z.data(), chunk, values.data());
    kernels_have(z, values);
    order.add(z, values);
    CHECK(order.holds);
  }
  CHECK(swish(end) == (direction > 0 ? end : 0.0f));
  CHECK(swish(2.0f * end) == (direction > 0 ? 2.0f * end : 0.0f));
}

void functions_at_their_ends() {
  CHECK(swish(0.0f) == 0.0f && swish(200.0f) == 200.0f && swish(-200.0f) == 0.0f);
  CHECK(sigmoid(0.0f) == 0.5f && sigmoid(200.0f) == 1.0f && sigmoid(-200.0f) == 0.0f);
  CHECK(activate<kRelu>(-1.0f) == 0.0f && activate<kRelu>(2.0f) == 2.0f);
  CHECK(through<kRelu>(2.0f, 0.0f) == 0.0f && through<kRelu>(2.0f, 1.0f) == 2.0f);
  CHECK(through<kRelu>(INFINITY, -1.0f) == 0.0f && through<kRelu>(2.0f, NAN) == 2.0f);
  CHECK(through<kIdentity>(2.0f, -3.0f) == 2.0f && through<kSwish>(2.0f, 0.0f) == 1.0f);
  CHECK(slope<kSwish>(0.0f) == 0.5f && slope<kSigmoid>(0.0f) == 0.25f);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(swish(nan)) && std::isnan(sigmoid(nan)) && std::isnan(activate<kRelu>(nan)));
}

}  // namespace

void run_tests(std::mt19937& random) {
  exp_is_within_two_ulp(random);
  // Of the same lines in each instruction set, those of the widest vectors take the least time; a
  // machine without them takes what it has.
  (void)choose_kernels("avx512");
  for (const int64_t direction : {1, -1}) swish_is_in_order_on_either_side(direction);
  functions_at_their_ends();
}

}  // namespace micronet
