// The extremes of what follows a convolution.
//
// A function of integers that falls and then rises is extreme at the ends of either part: at no
// more than four integers of a channel, which are found without evaluating it.

#include <cmath>
#include <limits>

#include "cpu/block_cut.h"

namespace micronet {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Where fewer integers than this have a place in common, it is faster to evaluate them all.
constexpr int64_t kFewestOfPlace = 8;

// Extremes of the places of a run.
struct PlaceExtremes {
  std::vector<float> least, most;
  std::vector<int32_t> bad;

  explicit PlaceExtremes(size_t width)
      : least(width, kInfinity), most(width, -kInfinity), bad(width, 0) {}

  void add(const BlockRun& run) {
    kernels().block_extremes(run, least.data(), most.data(), bad.data());
  }

  // Both NaN where a value was.
  void write(float* extremes) const {
    Extremes found;
    for (size_t i = 0; i < least.size(); ++i) {
      found.least = least[i] < found.least ? least[i] : found.least;
      found.most = most[i] > found.most ? most[i] : found.most;
      found.has_nan = found.has_nan || bad[i] != 0;
    }
    const float nan = std::numeric_limits<float>::quiet_NaN();
    extremes[0] = found.has_nan ? nan : found.least;
    extremes[1] = found.has_nan ? nan : found.most;
  }
};

// Evaluates every value of a unit.
void extremes_of_values(const Cut& cut, Constants& constants, int64_t unit, float* extremes) {
  PlaceExtremes found(static_cast<size_t>(cut.width));
  cut.runs(unit, [&](int64_t first, int64_t count) { found.add(constants.run(first, count)); });
  found.write(extremes);
}

bool are_finite(const float* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!(std::fabs(x[i]) < kInfinity)) return false;
  }
  return true;
}

// Whether values are in the order of the integers, or against it, on either side of an edge. fma
// and a product round in order. Neighbors differ by the scale in what swish is called on, less what
// fma rounds, which is nothing beside it but where swish is the identity or 0.
bool are_in_order(const Block& block) {
  if (block.type == kValue || block.function == kSigmoid) return false;
  const int64_t c = block.channels;
  if (!are_finite(block.scale, c) || !are_finite(block.shift, c)) return false;
  if (block.gate != nullptr && !are_finite(block.gate, block.images * c)) return false;
  if (block.function != kSwish) return true;
  for (int64_t i = 0; i < c; ++i) {
    if (std::fabs(block.scale[i]) < 2.0f * kSwishSpacing) return false;
  }
  return true;
}

// The last integer that is on the side of the least one; by bisection.
template <typename T>
T edge_of(float scale, float shift) {
  const auto falls = [&](int64_t i) {
    return fmaf(static_cast<float>(i), scale, shift) <= kLeastSwishAt;
  };
  int64_t low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
  const bool side = falls(low);
  while (low < high) {
    const int64_t middle = high - (high - low) / 2;
    if (falls(middle) == side) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return static_cast<T>(low);
}

// For the places of a run; functions other than swish have no edge.
template <typename T>
std::vector<T> edges_of(const Cut& cut) {
  const size_t c = static_cast<size_t>(cut.block.channels);
  std::vector<T> edges(static_cast<size_t>(cut.width), std::numeric_limits<T>::max());
  if (cut.block.function != kSwish) return edges;
  for (size_t i = 0; i < edges.size(); ++i) {
    edges[i] = i < c ? edge_of<T>(cut.block.scale[i], cut.block.shift[i]) : edges[i - c];
  }
  return edges;
}

// Evaluates the integers at the ends alone.
template <typename T>
void extremes_of_ends(const Cut& cut, Constants& constants, const std::vector<T>& edges,
                      int64_t unit, float* extremes) {
  constexpr T kLeast = std::numeric_limits<T>::min(), kMost = std::numeric_limits<T>::max();
  const size_t width = static_cast<size_t>(cut.width);
  std::vector<T> least(width, kMost), most(width, kLeast), below(width, kLeast),
      above(width, kMost);
  const IntegerEnds ends{least.data(), most.data(), below.data(), above.data(), edges.data()};
  int64_t places = 0;  // the first run has all that there are
  cut.runs(unit, [&](int64_t first, int64_t count) {
    places = std::max(places, count);
    kernels().block_ends(cut.at(first), cut.block.type, count, ends);
  });
  for (size_t i = 0; i < static_cast<size_t>(places); ++i) {
    if (least[i] > edges[i]) below[i] = least[i];
    if (most[i] <= edges[i]) above[i] = most[i];
  }
  PlaceExtremes found(width);
  for (const auto* at : {&least, &most, &below, &above}) {
    found.add(constants.run_of(at->data(), places));
  }
  found.write(extremes);
}

template <typename T>
void extremes_by_ends(const Cut& cut, float* partial, const ParallelFor& parallel) {
  const std::vector<T> edges = edges_of<T>(cut);
  cut.parallel(parallel, [&](int64_t from, int64_t to) {
    Constants constants(cut);
    for (int64_t u = from; u < to; ++u) {
      constants.enter(u);
      extremes_of_ends(cut, constants, edges, u, partial + 2 * u);
    }
  });
}

void extremes_by_values(const Cut& cut, float* partial, const ParallelFor& parallel) {
  cut.parallel(parallel, [&](int64_t from, int64_t to) {
    Constants constants(cut);
    for (int64_t u = from; u < to; ++u) {
      constants.enter(u);
      extremes_of_values(cut, constants, u, partial + 2 * u);
    }
  });
}

}  // namespace

int block_extremes_cpu(const Block& block, float* partial, float* extremes,
                       const ParallelFor& parallel) {
  const Cut cut(block);
  const bool are_many = block.positions * block.channels >= kFewestOfPlace * cut.width;
  if (!are_many || !are_in_order(block)) {
    extremes_by_values(cut, partial, parallel);
  } else if (block.type == kInt16) {
    extremes_by_ends<int16_t>(cut, partial, parallel);
  } else {
    extremes_by_ends<int32_t>(cut, partial, parallel);
  }
  float least = kInfinity, largest = -kInfinity;
  for (int64_t u = 0; u < cut.units(); ++u) {
    const float l = partial[2 * u], m = partial[2 * u + 1];
    least = l != l || l < least ? l : least;
    largest = m != m || m > largest ? m : largest;
    if (l != l) break;
  }
  extremes[0] = least + 0.0f;
  extremes[1] = largest + 0.0f;
  return kOk;
}

}  // namespace micronet
