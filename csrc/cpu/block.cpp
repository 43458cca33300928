// What follows a convolution: cut into units of a few pixels' worth of channels side by side.

#include "../block.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "../exact.h"
#include "kernels.h"
#include "parallel.h"

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

  explicit Cut(const Block& b)
      : block(b), width((kRun + b.channels - 1) / b.channels * b.channels) {
    const int64_t pixels = width / b.channels, unit = kUnit / width > 0 ? kUnit / width : 1;
    positions = pixels * unit;
    per_image = (b.positions + positions - 1) / positions;
  }

  int64_t units() const { return block.images * per_image; }

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
  std::vector<float> m, b, gate, extra;
  int64_t image = -1;

  Constants(const Cut& c, const float* extra_from = nullptr) : cut(c), extra_of(extra_from) {
    m = repeated(cut.block.m);
    b = repeated(cut.block.b);
    extra.assign(static_cast<size_t>(cut.width), 0.0f);
  }

  std::vector<float> repeated(const float* channels) const {
    std::vector<float> values(static_cast<size_t>(cut.width));
    repeat(channels, &values);
    return values;
  }

  void repeat(const float* channels, std::vector<float>* values) const {
    const int64_t c = cut.block.channels;
    values->resize(static_cast<size_t>(cut.width));
    for (int64_t i = 0; i < cut.width; i += c) {
      std::memcpy(values->data() + i, channels, static_cast<size_t>(c) * sizeof(float));
    }
  }

  // Those of the unit's image.
  void enter(int64_t unit) {
    const int64_t next = unit / cut.per_image, c = cut.block.channels;
    if (next == image) return;
    image = next;
    if (cut.block.gate != nullptr) repeat(cut.block.gate + image * c, &gate);
    if (extra_of != nullptr) repeat(extra_of + image * c, &extra);
  }

  BlockRun run(int64_t first, int64_t count) const {
    const int64_t bytes = cut.block.type == kInt16 ? 2 : 4;
    return {static_cast<const char*>(cut.block.acc) + first * bytes,
            cut.block.type,
            count,
            m.data(),
            b.data(),
            cut.block.gate != nullptr ? gate.data() : nullptr,
            cut.block.function};
  }

 private:
  const float* extra_of;
};

GradientRun gradient_run(const BlockGradient& g, int64_t first, const Constants& constants) {
  const float most = std::numeric_limits<float>::infinity();
  GradientRun run{g.grad + first, constants.extra.data(), -most, most};
  if (g.range != nullptr) {
    const Quantiser q = make_quantiser(g.range[0], g.range[1], 2, kAffine);
    run.lo = q.lo;
    run.hi = q.hi;
  }
  return run;
}

// Adds up a run's places by channel.
template <typename T>
void fold(const std::vector<T>& places, int64_t channels, double* sums) {
  for (size_t i = 0; i < places.size(); i += static_cast<size_t>(channels)) {
    for (int64_t c = 0; c < channels; ++c)
      sums[c] += static_cast<double>(places[i + static_cast<size_t>(c)]);
  }
}

// Adds up the sums [2, channels] of all units, in their order.
void add_units(const Cut& cut, const double* partial, double* sums) {
  const int64_t width = 2 * cut.block.channels;
  std::fill(sums, sums + width, 0.0);
  for (int64_t u = 0; u < cut.units(); ++u) {
    for (int64_t c = 0; c < width; ++c) sums[c] += partial[u * width + c];
  }
}

// Two sums by channel: body(run, first element, sums, other sums) adds to those of its places.
template <typename T, typename Body>
int two_sums(const Block& block, const float* extra, double* partial, double* sums,
             const ParallelFor& parallel, const Body& body) {
  const Cut cut(block);
  cut.parallel(parallel, [&](int64_t from, int64_t to) {
    Constants constants(cut, extra);
    const size_t width = static_cast<size_t>(cut.width);
    for (int64_t u = from; u < to; ++u) {
      constants.enter(u);
      std::vector<T> one(width, T{0}), other(width, T{0});
      cut.runs(u, [&](int64_t first, int64_t count) {
        body(constants, constants.run(first, count), first, one.data(), other.data());
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
int each_run(const Block& block, const float* extra, const ParallelFor& parallel,
             const Body& body) {
  const Cut cut(block);
  cut.parallel(parallel, [&](int64_t from, int64_t to) {
    Constants constants(cut, extra);
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
  const Cut cut(block);
  const int64_t c = block.channels;
  parallel_for(parallel, block.images, block.positions * c, [&](int64_t from, int64_t to) {
    Constants constants(cut);
    std::vector<float> lanes(static_cast<size_t>(kLanes * c));
    for (int64_t image = from; image < to; ++image) {
      constants.enter(image * cut.per_image);
      std::fill(lanes.begin(), lanes.end(), 0.0f);
      for (int64_t p = 0; p < block.positions; ++p) {
        const int64_t first = (image * block.positions + p) * c;
        body(constants, constants.run(first, c), first, lanes.data() + p % kLanes * c);
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

void pack_into(const uint8_t* codes, int64_t first, int64_t count, uint8_t* packed) {
  int64_t i = 0;
  if (first % 2 != 0 && count > 0) {
    packed[first / 2] = static_cast<uint8_t>(packed[first / 2] | codes[i++] << 4);
  }
  uint8_t* to = packed + (first + i) / 2;
  for (; i + 2 <= count; i += 2) *to++ = static_cast<uint8_t>(codes[i] | codes[i + 1] << 4);
  if (i < count) *to = codes[i];
}

}  // namespace

int64_t block_units(const Block& block) { return Cut(block).units(); }

int block_moments_cpu(const Block& block, double* partial, double* sums,
                      const ParallelFor& parallel) {
  return two_sums<double>(block, nullptr, partial, sums, parallel,
                          [](const Constants&, const BlockRun& run, int64_t, double* one,
                             double* other) { kernels().block_moments(run, one, other); });
}

int block_extremes_cpu(const Block& block, float* partial, float* extremes,
                       const ParallelFor& parallel) {
  const Cut cut(block);
  const float most = std::numeric_limits<float>::infinity();
  cut.parallel(parallel, [&](int64_t from, int64_t to) {
    Constants constants(cut);
    const size_t width = static_cast<size_t>(cut.width);
    for (int64_t u = from; u < to; ++u) {
      constants.enter(u);
      std::vector<float> least(width, most), largest(width, -most);
      std::vector<int32_t> bad(width, 0);
      cut.runs(u, [&](int64_t first, int64_t count) {
        kernels().block_extremes(constants.run(first, count), least.data(), largest.data(),
                                 bad.data());
      });
      Extremes found;
      for (size_t i = 0; i < width; ++i) {
        found.least = least[i] < found.least ? least[i] : found.least;
        found.most = largest[i] > found.most ? largest[i] : found.most;
        found.has_nan = found.has_nan || bad[i] != 0;
      }
      const float nan = std::numeric_limits<float>::quiet_NaN();
      partial[2 * u] = found.has_nan ? nan : found.least;
      partial[2 * u + 1] = found.has_nan ? nan : found.most;
    }
  });
  float least = most, largest = -most;
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

int block_codes_cpu(const Block& block, const float* range, int levels, uint8_t* codes,
                    const ParallelFor& parallel) {
  const Quantiser q = make_quantiser(range[0], range[1], levels, kAffine);
  const auto pack_all = [&](const ParallelFor& threads) {
    const Cut cut(block);
    cut.parallel(threads, [&](int64_t from, int64_t to) {
      Constants constants(cut);
      std::vector<uint8_t> bytes(static_cast<size_t>(cut.width));
      for (int64_t u = from; u < to; ++u) {
        constants.enter(u);
        cut.runs(u, [&](int64_t first, int64_t count) {
          kernels().block_codes(constants.run(first, count), q, bytes.data());
          pack_into(bytes.data(), first, count, codes);
        });
      }
    });
  };
  // Units of an odd number of elements share a byte with the next.
  const ParallelFor serial{[](int64_t count, int64_t, void (*body)(void*, int64_t, int64_t),
                              void* context) { body(context, 0, count); }};
  pack_all(block.channels % 2 == 0 ? parallel : serial);
  return kOk;
}

int block_values_cpu(const Block& block, float* values, const ParallelFor& parallel) {
  return each_run(block, nullptr, parallel,
                  [&](const Constants&, const BlockRun& run, int64_t first) {
                    kernels().block_values(run, values + first);
                  });
}

int block_means_cpu(const Block& block, float* means, const ParallelFor& parallel) {
  const int status = sums_by_image(block, means, parallel,
                                   [](const Constants&, const BlockRun& run, int64_t, float* sums) {
                                     kernels().block_add(run, sums);
                                   });
  const float count = static_cast<float>(block.positions);
  for (int64_t i = 0; i < block.images * block.channels; ++i) means[i] = means[i] / count;
  return status;
}

int block_gradient_sums_cpu(const Block& block, const BlockGradient& gradient, double* partial,
                            double* sums, const ParallelFor& parallel) {
  return two_sums<float>(block, gradient.extra, partial, sums, parallel,
                         [&](const Constants& constants, const BlockRun& run, int64_t first,
                             float* one, float* other) {
                           kernels().block_gradient_sums(
                               run, gradient_run(gradient, first, constants), one, other);
                         });
}

int block_gradient_cpu(const Block& block, const BlockGradient& gradient, const float* k,
                       float* out, const ParallelFor& parallel) {
  const Cut cut(block);
  const Constants whole(cut);
  const std::vector<float> k0 = whole.repeated(k), k1 = whole.repeated(k + block.channels),
                           k2 = whole.repeated(k + 2 * block.channels);
  const float* const all[] = {k0.data(), k1.data(), k2.data()};
  return each_run(block, gradient.extra, parallel,
                  [&](const Constants& constants, const BlockRun& run, int64_t first) {
                    kernels().block_gradient(run, gradient_run(gradient, first, constants), all,
                                             out + first);
                  });
}

int block_gate_gradient_cpu(const Block& block, const BlockGradient& gradient, float* grad_a,
                            float* grad_gate, const ParallelFor& parallel) {
  return sums_by_image(
      block, grad_gate, parallel,
      [&](const Constants& constants, const BlockRun& run, int64_t first, float* sums) {
        kernels().block_gate_gradient(run, gradient_run(gradient, first, constants), grad_a + first,
                                      sums);
      });
}

}  // namespace micronet
