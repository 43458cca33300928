// What the inner loops of convolutions read and write, and those of what follows them.
#ifndef MICRONET_CPU_TILES_H_
#define MICRONET_CPU_TILES_H_

#include <cstdint>
#include <limits>

#include "include/conv.h"
#include "include/function.h"

namespace micronet {

// Pixels [pixels] of `depth` codes each, a multiple of four, times panels of sixteen channels; the
// weights of each are padded with zeros. correction, offset and ratio are padded to whole panels.
// To each sum its channel's correction is added, and where there are offsets the channel's times
// the pixel's entry in pixel_sums. A wide tile has pairs of products beyond 16 bits.
struct ConvTile {
  const uint8_t* x;
  int64_t x_stride, pixels;
  const int8_t* panels;
  int64_t depth;
  const int32_t* correction;
  const int32_t *offset, *pixel_sums;
  bool wide;
  const float* ratio;
  Accumulator kind;
  void* out;
  int64_t out_stride, out_channels;
  bool streamed;
};

// The most products of a depth, a multiple of four, that tiles take at a time: its largest divisor
// of at most kMostTileProducts that is one, too.
constexpr int64_t kMostTileProducts = 64;
static inline int64_t tile_products(int64_t depth) {
  int64_t products = depth < kMostTileProducts ? depth : kMostTileProducts;
  while (depth % products != 0) products -= 4;
  return products;
}

// Four weights of an output channel in the order of their products, and where the codes for them
// begin among those of a SparseTile.
struct FourWeights {
  int32_t weights, place;
};

constexpr int kSparsePixels = 64;

// At most kSparsePixels pixels times the weights that are not zero; `out.x` is
// [depth / 4, kSparsePixels, 4], `out.panels` is not used. The groups of output channel o and part
// p of the depth are [starts[o * parts + p], starts[o * parts + p + 1]).
struct SparseTile {
  ConvTile out;
  const FourWeights* groups;
  const int64_t* starts;
  int64_t parts;
};

// A line of a depthwise convolution: the codes below each row of taps, those of two neighboring
// taps side by side for each channel, and the weights [tap_rows, tap_pairs, padded, 2] for them,
// bytes where sums fit 16 bits and 16 bits wide where they do not. `padded` channels, which are
// read, are whole vectors; the first `channels` are written.
struct DepthwiseRow {
  const uint8_t* const* lines;
  int64_t next_output, next_pair;  // bytes from the codes of an output, or of a pair, to the next
  int64_t tap_rows, tap_pairs, channels, padded;
  const void* weights;
  const int32_t* correction;
  const float* ratio;
  bool fits_int16;
  Accumulator kind;
  void* out;
  int64_t out_width;
};

// Codes of `channels` channels of a line of `width` pixels, `stride` apart, to pairs
// [positions, pitch, 2], pitch being 32 or 64: at position p those of the columns `first + p *
// step` and `distance` to the right of it. Outside the line stands `zero`; what lies beyond the
// channels is any code.
struct PairLine {
  const uint8_t* codes;
  int64_t stride, width, channels;
  int64_t first, step, distance, positions, pitch;
  uint8_t zero;
  uint8_t* pairs;
};

// Sums by fma from 0 on, in the order of `depth`: out [pixels, outputs] of x [depth, pitch], whose
// first `pixels` columns are read, times w [depth, outputs].
struct FmaTile {
  const float* x;
  int64_t pitch, pixels, depth;
  const float* w;
  int64_t outputs;
  float* out;
  int64_t out_stride;
};

}  // namespace micronet

#endif  // MICRONET_CPU_TILES_H_
