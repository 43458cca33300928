// Normalization by CUDA kernels that run on the host, against a plain loop of the same arithmetic.

#include "include/norm.h"
#include "tests/check.h"

namespace micronet {
namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

bool same(double a, double b) { return a != a ? b != b : std::memcmp(&a, &b, sizeof a) == 0; }

template <typename T>
void check_same(const std::vector<T>& found, const std::vector<T>& expected) {
  CHECK(found.size() == expected.size());
  for (size_t i = 0; i < found.size(); ++i) CHECK(same(found[i], expected[i]));
}

Doubles wide(std::mt19937& random, int64_t count) {
  const Floats drawn = normals(random, count);
  return {drawn.begin(), drawn.end()};
}

struct Trial {
  size_t channels;
  Floats dequant_scale, weight, bias;
  Doubles sums, mean, variance;
  Norm norm;

  Trial(std::mt19937& random, int64_t c)
      : channels(static_cast<size_t>(c)),
        dequant_scale(normals(random, c)),
        weight(normals(random, c)),
        bias(normals(random, c)),
        sums(wide(random, 2 * c)),
        mean(wide(random, c)),
        variance(wide(random, c)),
        norm{c, dequant_scale.data(), random() % 2 ? weight.data() : nullptr,
             random() % 2 ? bias.data() : nullptr, 1e-5} {
    // No value at all, and values that are all the same.
    if (random() % 4 == 0) sums[0] = std::nan("");
    if (random() % 4 == 0) variance[channels - 1] = 0.0;
  }
};

// What folding writes.
struct Folded {
  Doubles mean, variance;
  Floats scale, shift, running_mean, running_variance;

  Folded(size_t channels, const Floats& running)
      : mean(channels),
        variance(channels),
        scale(channels),
        shift(channels),
        running_mean(running),
        running_variance(running) {}

  NormFold out() { return {mean.data(), variance.data(), scale.data(), shift.data()}; }
  RunningStatistics running(int kept) {
    return {kept & 1 ? running_mean.data() : nullptr, kept & 2 ? running_variance.data() : nullptr,
            0.1f};
  }
};

void folds(std::mt19937& random, const Trial& t, int64_t count) {
  const Floats running = normals(random, t.norm.channels);
  Folded expected(t.channels, running), found(t.channels, running);
  const int kept = static_cast<int>(random() % 4);
  for (int64_t c = 0; c < t.norm.channels; ++c) {
    fold_channel(t.norm, t.sums.data(), count, expected.running(kept), expected.out(), c);
  }
  CHECK(norm_fold_cuda(t.norm, t.sums.data(), count, found.running(kept), found.out(), nullptr) ==
        kOk);
  check_same(found.mean, expected.mean);
  check_same(found.variance, expected.variance);
  check_same(found.scale, expected.scale);
  check_same(found.shift, expected.shift);
  check_same(found.running_mean, expected.running_mean);
  check_same(found.running_variance, expected.running_variance);
}

// What the way back writes.
struct Mapped {
  Floats k, weight, bias;

  explicit Mapped(size_t channels) : k(3 * channels), weight(channels), bias(channels) {}
  NormGradientMap out() { return {k.data(), weight.data(), bias.data()}; }
};

void maps_back(const Trial& t, int64_t count) {
  const NormGradient gradient{t.sums.data(), t.mean.data(), t.variance.data(), count};
  Mapped expected(t.channels), found(t.channels);
  for (int64_t c = 0; c < t.norm.channels; ++c) map_channel(t.norm, gradient, expected.out(), c);
  CHECK(norm_gradient_map_cuda(t.norm, gradient, found.out(), nullptr) == kOk);
  check_same(found.k, expected.k);
  check_same(found.weight, expected.weight);
  check_same(found.bias, expected.bias);
}

void rounds_as_torch_does() {
  // fma(0.1f, 1, 3): two roundings would give the float below.
  CHECK(same(interpolate(3.0f, 4.0f, 0.1f), fmaf(0.1f, 1.0f, 3.0f)));
  CHECK(same(interpolate(3.0f, 4.0f, 1.0f), 4.0f));
  CHECK(same(interpolate(3.0f, 4.0f, 0.0f), 3.0f));
}

}  // namespace

void run_tests(std::mt19937& random) {
  rounds_as_torch_does();
  for (const int64_t channels : {1, 2, 255, 256, 257, 1000}) {
    for (const int64_t count : {1, 2, 12544}) {
      const Trial trial(random, channels);
      folds(random, trial, count);
      maps_back(trial, count);
      maps_back(trial, 0);
    }
  }
}

}  // namespace micronet
