// Selection by CUDA kernels that run on the host, against a stable sort.

#include <algorithm>
#include <numeric>

#include "tests/cuda/inputs.h"

namespace micronet {
namespace {

std::vector<uint64_t> dirty_workspace(int64_t numel) {
  const int64_t words = (selection_workspace(numel) + 7) / 8;
  return std::vector<uint64_t>(static_cast<size_t>(words), ~0ull);
}

void smallest_are_those_of_a_stable_sort(std::mt19937& random, const Elements& of, DType type,
                                         int64_t numel, int skip) {
  Elements w = of;
  std::vector<int64_t> order(static_cast<size_t>(numel));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return std::fabs(w[a]) < std::fabs(w[b]); });
  const int64_t some = static_cast<int64_t>(random() % static_cast<uint64_t>(numel + 1));
  for (const int64_t k : {int64_t{0}, some, numel}) {
    std::vector<uint8_t> mask = dirty(bytes_for(numel) + skip);
    std::vector<uint64_t> workspace = dirty_workspace(numel);
    CHECK(smallest_magnitude_mask_cuda(w.data(), type, numel, k, mask.data() + skip,
                                       workspace.data(), nullptr) == kOk);
    CHECK(workspace[0] == 0);
    for (int64_t i = 0; i < numel; ++i) {
      CHECK(bit(mask, order[static_cast<size_t>(i)] + 8 * skip) == (i >= k));
    }
    for (int64_t i = numel; i < 8 * bytes_for(numel); ++i) CHECK(!bit(mask, i + 8 * skip));
  }
}

// A number in two, at random, is one of few, zeros of both signs among them.
Elements with_ties(std::mt19937& random, DType type, int64_t numel, int skip) {
  Elements w = inputs(random, type, numel, skip, kExtreme);
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < numel; ++i) {
    if (random() % 2) w.set(i, chosen(random, {0.0f, -0.0f, 1.0f, -1.0f, 1e-41f, kInf, -kInf}));
  }
  return w;
}

Elements all_alike(DType type, int64_t numel, int skip, float value) {
  Elements w(type, numel, skip);
  for (int64_t i = 0; i < numel; ++i) w.set(i, value);
  return w;
}

void nan_is_reported(std::mt19937& random, DType type, int64_t numel, int skip) {
  Elements w = inputs(random, type, numel, skip, kExtreme);
  w.set(static_cast<int64_t>(random() % static_cast<uint64_t>(numel)), NAN);
  std::vector<uint8_t> mask = dirty(bytes_for(numel));
  const int64_t k = random() % 2 ? numel : 0;
  std::vector<uint64_t> workspace = dirty_workspace(numel);
  CHECK(smallest_magnitude_mask_cuda(w.data(), type, numel, k, mask.data(), workspace.data(),
                                     nullptr) == kOk);
  CHECK(workspace[0] != 0);
}

void counts_that_do_not_fit_are_refused() {
  for (const int64_t k : {-1, 1}) {
    CHECK(smallest_magnitude_mask_cuda(nullptr, kFloat32, 0, k, nullptr, nullptr, nullptr) ==
          kBadCount);
  }
}

}  // namespace

void run_tests(std::mt19937& random) {
  for (const DType type : kTypes) {
    for (const int64_t numel : kTileSizes) {
      const int skip = static_cast<int>(random() % 2);
      const Elements w = random() % 4 ? with_ties(random, type, numel, skip)
                                      : inputs(random, type, numel, skip, kExtreme);
      smallest_are_those_of_a_stable_sort(random, w, type, numel, skip);
      if (numel > 0) nan_is_reported(random, type, numel, skip);
    }
  }
  for (const float value : {0.0f, -2.5f}) {
    smallest_are_those_of_a_stable_sort(random, all_alike(kFloat32, 8200, 0, value), kFloat32, 8200,
                                        0);
  }
  counts_that_do_not_fit_are_refused();
}

}  // namespace micronet
