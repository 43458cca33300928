// Inputs at the edges of tiles, of alignment and of what a float holds.
#ifndef MICRONET_TESTS_CUDA_INPUTS_H_
#define MICRONET_TESTS_CUDA_INPUTS_H_

#include <cmath>
#include <limits>

#include "tests/check.h"

namespace micronet {

constexpr int64_t kTileSizes[] = {0,  1,  7,  8,  9,   10,  11,  12,   13,   14,   15,   16,
                                  17, 31, 32, 33, 255, 256, 257, 4095, 4096, 4097, 20011};
// Sizes beyond which a trial takes long: a scheme, or levels too, are then chosen at random.
constexpr int64_t kManyTiles = 1000;
constexpr DType kTypes[] = {kFloat32, kBFloat16, kFloat16};
// Those of a range.
constexpr int kSchemes[] = {kAffine, kDistillerAffine, kDistillerSymmetric, kSymmetric};
constexpr size_t kSchemeCount = sizeof(kSchemes) / sizeof(int);
// The least levels that a scheme has.
inline int levels_for(int scheme, int levels) {
  return levels < 3 && (scheme == kDistillerSymmetric || scheme == kSymmetric) ? 3 : levels;
}
constexpr int kLevels[] = {2, 5, 16, 256};

// Elements of any DType type that end where their memory ends, for a sanitizer to see. They start
// `skip` elements into it: only without is their address a multiple of 16.
class Elements {
 public:
  Elements(DType type, int64_t numel, int skip)
      : type_(type), skip_(skip), memory_(static_cast<size_t>((numel + skip) * width()), 0xff) {}

  int64_t width() const { return type_ == kFloat32 ? 4 : 2; }
  void* data() { return memory_.data() + skip_ * width(); }

  float operator[](int64_t i) const {
    const uint8_t* p = memory_.data() + (skip_ + i) * width();
    if (type_ == kFloat32) return read<float>(p);
    return type_ == kBFloat16 ? widen(read<BFloat16>(p)) : widen(read<Float16>(p));
  }

  void set(int64_t i, float v) {
    uint8_t* p = memory_.data() + (skip_ + i) * width();
    if (type_ == kFloat32) return write<float>(v, p);
    type_ == kBFloat16 ? write<BFloat16>(v, p) : write<Float16>(v, p);
  }

  // The first `drawn` of them again and again.
  void repeat(int64_t drawn, int64_t numel) {
    uint8_t* first = memory_.data() + skip_ * width();
    for (int64_t i = drawn; i < numel; i += drawn) {
      const int64_t count = i + drawn <= numel ? drawn : numel - i;
      std::memcpy(first + i * width(), first, static_cast<size_t>(count * width()));
    }
  }

 private:
  template <typename T>
  static T read(const uint8_t* p) {
    T v;
    std::memcpy(&v, p, sizeof(T));
    return v;
  }
  template <typename T>
  static void write(float v, uint8_t* p) {
    T narrowed;
    narrow(v, &narrowed);
    std::memcpy(p, &narrowed, sizeof(T));
  }

  DType type_;
  int64_t skip_;
  std::vector<uint8_t> memory_;
};

// What is left of v in memory of a type.
inline float rounded_to(DType type, float v) {
  Elements one(type, 1, 0);
  one.set(0, v);
  return one[0];
}

inline float chosen(std::mt19937& random, std::initializer_list<float> of) {
  return of.begin()[random() % of.size()];
}

// Usual numbers alone; with a sixteenth at the edges of the types; with some that are not finite as
// well; or minus zero alone.
enum Kind { kUsual, kExtreme, kHostile, kMinusZero };

inline Kind any_kind(std::mt19937& random) { return static_cast<Kind>(random() % 4); }

// Of millions, a number is drawn that no size of tiles divides.
constexpr int64_t kMostDrawn = 524287;

inline Elements inputs(std::mt19937& random, DType type, int64_t numel, int skip, Kind kind) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const float nan = float_of(0x7fffffffu);  // as a device writes it
  Elements x(type, numel, skip);
  std::normal_distribution<float> normal;
  const int64_t drawn = numel < kMostDrawn ? numel : kMostDrawn;
  for (int64_t i = 0; i < drawn; ++i) {
    float v = kind == kMinusZero ? -0.0f : normal(random);
    if ((kind == kExtreme || kind == kHostile) && random() % 16 == 0) {
      v = chosen(random, {0.0f, -0.0f, 1e-41f, -1e-41f, 3e-8f, 6e4f, -6e4f});
    }
    if (kind == kHostile && random() % 16 == 0)
      v = chosen(random, {nan, kInf, -kInf, 3e38f, -3e38f});
    x.set(i, v);
  }
  if (drawn < numel) x.repeat(drawn, numel);
  return x;
}

inline Elements inputs(std::mt19937& random, DType type, int64_t numel, int skip, bool hostile) {
  return inputs(random, type, numel, skip, hostile ? kHostile : kExtreme);
}

struct Range {
  float ends[2];

  bool is(const float* found) const { return same(found[0], ends[0]) && same(found[1], ends[1]); }
};

// Mostly usual ones; else empty, of one sign, too small or too large to divide by, or NaN.
inline Range any_range(std::mt19937& random) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const std::vector<float> ends = normals(random, 2);
  switch (random() % 16) {
    case 0:
      return {{0.0f, -0.0f}};
    case 1:
      return {{std::fabs(ends[0]), 4.0f}};
    case 2:
      return {{-1e-41f, 1e-42f}};
    case 3:
      return {{-3e38f, 3e38f}};
    case 4:
      return {{ends[0], chosen(random, {NAN, kInf})}};
    case 5:
      return {{-kInf, ends[0]}};
    default:
      return {{-std::fabs(ends[0]), std::fabs(ends[1])}};
  }
}

inline std::vector<uint8_t> dirty(int64_t size) {
  return std::vector<uint8_t>(static_cast<size_t>(size), 0xff);
}

inline std::vector<float> workspace() {
  return std::vector<float>(static_cast<size_t>(kWorkspace), 1e30f);
}

// The extremes of x, at least one element: NaN both where it holds one, and never minus zero.
inline Range extremes_of(const Elements& x, int64_t numel) {
  float least = x[0], most = x[0];
  for (int64_t i = 0; i < numel; ++i) {
    if (x[i] != x[i]) return {{NAN, NAN}};
    least = x[i] < least ? x[i] : least;
    most = x[i] > most ? x[i] : most;
  }
  return {{least + 0.0f, most + 0.0f}};
}

// The bits of x in the range of q; those beyond the end are 0.
inline void check_inside(const Elements& x, int64_t numel, const Quantizer& q,
                         const std::vector<uint8_t>& inside) {
  for (int64_t i = 0; i < numel; ++i) CHECK(bit(inside, i) == is_inside(x[i], q));
  for (int64_t i = numel; i < 8 * bytes_for(numel); ++i) CHECK(!bit(inside, i));
}

// Calls test(type, numel, skip) for every type, size and alignment.
template <typename Test>
void on_all_edges(const Test& test) {
  for (const DType type : kTypes) {
    for (const int64_t numel : kTileSizes) {
      for (const int skip : {0, 1}) test(type, numel, skip);
    }
  }
}

}  // namespace micronet

#endif  // MICRONET_TESTS_CUDA_INPUTS_H_
