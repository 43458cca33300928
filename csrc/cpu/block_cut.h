// How a block is cut for threads and vectors, and the constants that its runs need.
#ifndef MICRONET_CPU_BLOCK_CUT_H_
#define MICRONET_CPU_BLOCK_CUT_H_

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "include/block.h"
#include "include/exact.h"

namespace micronet {
namespace {

// Elements that a loop runs over at a time: enough pixels to fill vectors, few enough that their
// constants stay in the nearest cache.
constexpr int64_t kRun = 512;
// Elements that a thread takes at a time. Their sums are apart, and added up in order.
constexpr int64_t kUnit = 65536;

// A block cut into units of one image each, and those into runs of `width` elements.
struct Cut {
  const Block& block;
  int64_t width;      // elements of a run, a whole number of pixels
  int64_t positions;  // of a unit; the last one of an image has fewer
  int64_t per_image;

  explicit Cut(const Block& b) : Cut(b, (kRun + b.channels - 1) / b.channels) {}

  Cut(const Block& b, int64_t pixels) : block(b), width(pixels * b.channels) {
    const int64_t unit = kUnit / width > 0 ? kUnit / width : 1;
    positions = pixels * unit;
    per_image = (b.positions + positions - 1) / positions;
  }

  int64_t units() const { return block.images * per_image; }

  // Accumulators from `first` on, in their own type.
  const void* at(int64_t first) const {
    const int64_t bytes = block.type == kInt16 ? 2 : 4;
    return static_cast<const char*>(block.acc) + first * bytes;
  }

  // What belongs to channels, for the pixels of a run.
  std::vector<float> repeated(const float* channels) const {
    std::vector<float> values(static_cast<size_t>(width));
    repeat(channels, &values);
    return values;
  }

  void repeat(const float* channels, std::vector<float>* values) const {
    const int64_t c = block.channels;
    for (int64_t i = 0; i < width; i += c) {
      std::memcpy(values->data() + i, channels, static_cast<size_t>(c) * sizeof(float));
    }
  }

  // Calls body(first element of the run, elements) for the runs of a unit.
  template <typename Body>
  void runs(int64_t unit, const Body& body) const {
    const int64_t c = block.channels, image = unit / per_image;
    const int64_t from = unit % per_image * positions;
    const int64_t to = from + positions < block.positions ? from + positions : block.positions;
    const int64_t last = (image * block.positions + to) * c;
    for (int64_t i = (image * block.positions + from) * c; i < last; i += width) {
      body(i, last - i < width ? last - i : width);
    }
  }

  template <typename Body>
  void parallel(const ParallelFor& parallel, const Body& body) const {
    const int64_t unit = positions * block.channels;
    parallel_for(parallel, units(), unit, [&](int64_t from, int64_t to) { body(from, to); });
  }
};

// One thread's constants, repeated for the pixels of a run.
struct Constants {
  const Cut& cut;
  std::vector<float> scale, shift, gate, mean_grad, floats, gradient, result;
  int64_t image = -1;

  Constants(const Cut& c, const float* extra_from = nullptr) : cut(c), mean_grad_of(extra_from) {
    scale = cut.repeated(cut.block.scale);
    shift = cut.repeated(cut.block.shift);
    gate.assign(static_cast<size_t>(cut.width), 1.0f);
    mean_grad.assign(static_cast<size_t>(cut.width), 0.0f);
    floats.resize(static_cast<size_t>(cut.width));
    gradient.resize(static_cast<size_t>(cut.width));
    result.resize(static_cast<size_t>(cut.width));
  }

  // Those of the unit's image.
  void enter(int64_t unit) {
    const int64_t next = unit / cut.per_image, c = cut.block.channels;
    if (next == image) return;
    image = next;
    if (cut.block.gate != nullptr) cut.repeat(cut.block.gate + image * c, &gate);
    if (mean_grad_of != nullptr) cut.repeat(mean_grad_of + image * c, &mean_grad);
  }

  BlockRun run(int64_t first, int64_t count) { return run_of(cut.at(first), count); }

  // A run of accumulators that lie elsewhere.
  BlockRun run_of(const void* acc, int64_t count) {
    const float* values = static_cast<const float*>(acc);
    if (cut.block.type != kValue) {
      kernels().block_floats(acc, cut.block.type, count, floats.data());
      values = floats.data();
    }
    return {values, count, scale.data(), shift.data(), gate.data(), cut.block.function};
  }

 private:
  const float* mean_grad_of;
};

// Adds up a run's places by channel.
template <typename T>
void fold(const std::vector<T>& places, int64_t channels, double* sums) {
  for (size_t i = 0; i < places.size(); i += static_cast<size_t>(channels)) {
    for (int64_t c = 0; c < channels; ++c)
      sums[c] += static_cast<double>(places[i + static_cast<size_t>(c)]);
  }
}

// Adds up the sums [2, channels] of all units, in their order.
inline void add_units(const Cut& cut, const double* partial, double* sums) {
  const int64_t width = 2 * cut.block.channels;
  std::fill(sums, sums + width, 0.0);
  for (int64_t u = 0; u < cut.units(); ++u) {
    for (int64_t c = 0; c < width; ++c) sums[c] += partial[u * width + c];
  }
}

// Two sums by channel: body(constants, first element, count, sums, other sums) adds to those of the
// places of a run.
template <typename T, typename Body>
int two_sums(const Block& block, const float* mean_grad, double* partial, double* sums,
             const ParallelFor& parallel, const Body& body) {
  const Cut cut(block);
  cut.parallel(parallel, [&](int64_t from, int64_t to) {
    Constants constants(cut, mean_grad);
    const size_t width = static_cast<size_t>(cut.width);
    for (int64_t u = from; u < to; ++u) {
      constants.enter(u);
      std::vector<T> one(width, T{0}), other(width, T{0});
      cut.runs(u, [&](int64_t first, int64_t count) {
        body(constants, first, count, one.data(), other.data());
      });
      double* mine = partial + u * 2 * block.channels;
      std::fill(mine, mine + 2 * block.channels, 0.0);
      fold(one, block.channels, mine);
      fold(other, block.channels, mine + block.channels);
    }
  });
  add_units(cut, partial, sums);
  return kOk;
}

// Calls body(run, first element) for every run.
template <typename Body>
int each_run(const Block& block, const float* mean_grad, const ParallelFor& parallel,
             const Body& body) {
  const Cut cut(block);
  cut.parallel(parallel, [&](int64_t from, int64_t to) {
    Constants constants(cut, mean_grad);
    for (int64_t u = from; u < to; ++u) {
      constants.enter(u);
      cut.runs(u, [&](int64_t first, int64_t count) {
        body(constants, constants.run(first, count), first);
      });
    }
  });
  return kOk;
}

// Sums by image and channel, by lanes of positions: body(run, first element, sums of the lane).
template <typename Body>
int sums_by_image(const Block& block, float* sums, const ParallelFor& parallel, const Body& body) {
  const int64_t c = block.channels;
  // Positions that are in all lanes lie as the lanes do, so that few channels make long runs.
  const int64_t step = c * kLanes <= 4 * kRun ? kLanes : 1;
  const Cut cut(block, step);
  parallel_for(parallel, block.images, block.positions * c, [&](int64_t from, int64_t to) {
    Constants constants(cut);
    std::vector<float> lanes(static_cast<size_t>(kLanes * c));
    for (int64_t image = from; image < to; ++image) {
      constants.enter(image * cut.per_image);
      std::fill(lanes.begin(), lanes.end(), 0.0f);
      for (int64_t p = 0; p < block.positions; p += step) {
        const int64_t first = (image * block.positions + p) * c, left = block.positions - p;
        body(constants, constants.run(first, (left < step ? left : step) * c), first,
             lanes.data() + p % kLanes * c);
      }
      for (int64_t half = kLanes / 2; half > 0; half /= 2) {
        for (int64_t i = 0; i < half * c; ++i) {
          lanes[static_cast<size_t>(i)] += lanes[static_cast<size_t>(half * c + i)];
        }
      }
      std::copy(lanes.begin(), lanes.begin() + c, sums + image * c);
    }
  });
  return kOk;
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_BLOCK_CUT_H_
