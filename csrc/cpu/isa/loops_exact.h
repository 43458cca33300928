// The inner loops of evaluation in float: sums of fmas in their stated order.
#ifndef MICRONET_CPU_ISA_LOOPS_EXACT_H_
#define MICRONET_CPU_ISA_LOOPS_EXACT_H_

#include "cpu/isa/loops.h"
#include "include/exact.h"

namespace micronet {
namespace {

// kPixels by at most kVectors * 16 outputs, all in registers; `last` are those of the last vector.
template <int kPixels, int kVectors>
MICRONET_INLINE void fma_block(const FmaTile& tile, int64_t pixel, int64_t output, int last) {
  Vector sums[kPixels][kVectors];
  for (auto& row : sums) {
    for (Vector& sum : row) sum = Vector::all(0.0f);
  }
  const float *x = tile.x + pixel, *w = tile.w + output;
  for (int64_t k = 0; k < tile.depth; ++k, x += tile.pitch, w += tile.outputs) {
    Vector weights[kVectors] = {};
    for (int v = 0; v < kVectors; ++v) {
      weights[v] = v + 1 < kVectors ? Vector::load(w + v * kWidth) : load(w + v * kWidth, last);
    }
    for (int p = 0; p < kPixels; ++p) {
      const Vector factor = Vector::all(x[p]);
      for (int v = 0; v < kVectors; ++v) {
        sums[p][v] = Vector::fma(factor, weights[v], sums[p][v]);
      }
    }
  }
  for (int p = 0; p < kPixels; ++p) {
    float* out = tile.out + (pixel + p) * tile.out_stride + output;
    for (int v = 0; v < kVectors; ++v) {
      store(sums[p][v], out + v * kWidth, v + 1 < kVectors ? kWidth : last);
    }
  }
}

template <int kVectors>
MICRONET_INLINE void fma_pixels(const FmaTile& tile, int64_t output, int last) {
  constexpr int kPixels = Vector::kMostSums / kVectors;
  int64_t p = 0;
  for (; p + kPixels <= tile.pixels; p += kPixels) {
    fma_block<kPixels, kVectors>(tile, p, output, last);
  }
  for (; p < tile.pixels; ++p) fma_block<1, kVectors>(tile, p, output, last);
}

inline void fma_tile(const FmaTile& tile) {
  int64_t output = 0;
  for (; output + kWidth < tile.outputs; output += 2 * kWidth) {
    const int64_t left = tile.outputs - output - kWidth;
    if (left >= kWidth) {
      fma_pixels<2>(tile, output, kWidth);
    } else {
      fma_pixels<2>(tile, output, static_cast<int>(left));
    }
  }
  if (output < tile.outputs) {
    fma_pixels<1>(tile, output, static_cast<int>(tile.outputs - output));
  }
}

// Rows that are summed side by side, so that none waits for its last sum.
template <int kRows, typename T>
MICRONET_INLINE void dot_rows(const float* x, const T* w, int64_t count, float* sums) {
  Vector lanes[kRows];
  for (Vector& of : lanes) of = Vector::all(0.0f);
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
    const Vector factor = Vector::load(x + k);
    for (int r = 0; r < kRows; ++r) {
      lanes[r] = Vector::fma(factor, Vector::load_whole(w + r * count + k, kLanes), lanes[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float each[kLanes];
    lanes[r].store(each);
    for (int l = 0; k + l < count; ++l) {
      each[l] = fmaf(x[k + l], static_cast<float>(w[r * count + k + l]), each[l]);
    }
    sums[r] = Vector::sum_pairwise(Vector::load(each));
  }
}

template <typename T>
inline void dot_lanes_of(const float* x, const T* w, int64_t count, int64_t rows, float* sums) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) dot_rows<4>(x, w + r * count, count, sums + r);
  for (; r < rows; ++r) dot_rows<1>(x, w + r * count, count, sums + r);
}

inline void widen(const float* x, int64_t numel, float* most) {
  for_vectors(numel, [&](int64_t i, int count) MICRONET_LAMBDA {
    const Vector v = load(x + i, count), w = load(most + i, count);
    const auto wins = Vector::either(Vector::below(w, v), Vector::is_nan(v));
    store(Vector::select(wins, v, w), most + i, count);
  });
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_LOOPS_EXACT_H_
