// Minimum and maximum in an order that cannot be seen in the result.
#ifndef MICRONET_CPU_EXTREMES_H_
#define MICRONET_CPU_EXTREMES_H_

#include <cstdint>
#include <limits>

namespace micronet {

struct Extremes {
  float least = std::numeric_limits<float>::infinity();
  float most = -std::numeric_limits<float>::infinity();
  bool has_nan = false;

  void add(const Extremes& other) {
    least = other.least < least ? other.least : least;
    most = other.most > most ? other.most : most;
    has_nan = has_nan || other.has_nan;
  }

  // A NaN anywhere is the answer, wherever it stood.
  void finish() {
    if (has_nan) least = most = std::numeric_limits<float>::quiet_NaN();
  }
};

// Extremes of x [numel], not finished. Sixteen lanes, since a compiler may not reorder one.
inline Extremes extremes_of(const float* __restrict x, int64_t numel) {
  constexpr int kLanes = 16;
  float least[kLanes], most[kLanes];
  uint32_t nan[kLanes];
  const Extremes none;
  for (int l = 0; l < kLanes; ++l) {
    least[l] = none.least;
    most[l] = none.most;
    nan[l] = 0;
  }
  int64_t i = 0;
  for (; i + kLanes <= numel; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const float v = x[i + l];
      least[l] = v < least[l] ? v : least[l];
      most[l] = v > most[l] ? v : most[l];
      nan[l] |= v != v ? 1u : 0u;
    }
  }
  Extremes all;
  for (; i < numel; ++i) all.add({x[i], x[i], x[i] != x[i]});
  for (int l = 0; l < kLanes; ++l) all.add({least[l], most[l], nan[l] != 0});
  return all;
}

}  // namespace micronet

#endif  // MICRONET_CPU_EXTREMES_H_
