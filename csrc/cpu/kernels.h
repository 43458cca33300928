// The inner loops that are compiled once for each instruction set, as a table of functions.
#ifndef MICRONET_CPU_KERNELS_H_
#define MICRONET_CPU_KERNELS_H_

#include <cstdint>
#include <limits>

#include "cpu/tiles.h"
#include "include/block.h"
#include "include/conv.h"
#include "include/core.h"

namespace micronet {

// A minimum and a maximum in an order that cannot be seen in the result.
struct Extremes {
  float least = std::numeric_limits<float>::infinity();
  float most = -std::numeric_limits<float>::infinity();
  bool has_nan = false;
};

// A quantizer and, where it has no more than sixteen codes, their values: that of a code is at its
// lowest four bits, in two's complement.
struct Rounding {
  Quantizer q;
  float values[16];
  bool is_small;
};

// Packed bits from any bit on, of `size` bytes; null is all ones.
struct Bits {
  const uint8_t* bytes;
  int64_t size;
  int64_t at;
};

// A row with one learned step; code c has the value (c + zero_point) / scale.
struct LearnedRow {
  Quantizer q;
  const void* x;
  Bits mask;
  int64_t numel;
  bool streamed;  // whether the output is aligned to 64 bytes and is written past the caches
};

// Pixels of a line and where they go: sixteen channels side by side, [channels / 16, positions,
// 16].
struct PixelLine {
  int64_t pixels, channels;
  int64_t pitch;       // elements from one pixel to the next
  int64_t next_block;  // floats from one block of `to` to the next
  float* to;
};

// A tap: where its first pixel begins in a block of a line, and its weights in a block of theirs.
struct LineTap {
  int64_t line_at, weight_at;
};

// Lines of the gradient to outputs that a row of pixels takes, and the rows of taps that meet them.
struct GradientLines {
  const float* const* lines;
  const float* const* weights;
  int64_t count;
};

// The gradient to pixels of a row that lie one stride apart, and so meet the same taps.
struct ImageGradientRow {
  GradientLines lines;
  const LineTap* taps;
  int64_t tap_count;
  int64_t next_line_block, next_weight_block;
  int64_t pixels, channels;
  int64_t next_pixel;  // elements of the output
  bool streamed;
};

// A row of outputs: its gradient and the lines of pixels below each row of taps, of which
// [from, to) are in the image. sums [blocks, tap_rows, tap_columns, 16] are added to.
struct WeightGradientRow {
  const float* grad;
  const float* const* lines;
  int64_t from, to, tap_rows, tap_columns;
  int64_t next_grad_block, next_line_block, next_tap, next_output;
  int64_t blocks, outputs;
  float* sums;
};

// Elements that lie side by side, with their constants; see Block. Without a gate it is ones.
struct BlockRun {
  const float* acc;
  int64_t count;
  const float *scale, *shift, *gate;
  Function function;
};

// Integers of each place of a run, int16 or int32: the least and the largest, the largest up to the
// place's edge and the least beyond it.
struct IntegerEnds {
  void *least, *most, *below, *above;
  const void* edges;
};

// The code of f(t) for a function f whose codes change at a few t: t is in entry
// clamp(rint(fma(t, spread, offset)), 0, entries - 1), whose codes are `below` its threshold and
// `from` it on.
struct CodeTable {
  static constexpr int kMost = 64;
  int entries;  // 32 or 64
  float spread, offset;
  float thresholds[kMost];
  int32_t codes[kMost];  // below + 256 * from
};

// What is made of sums [pixels, channels]: value = function(fma(sum, scale, shift)), of ReLU `most`
// where that is less, to which what
// `addend` has there is added. Places of `addend`, `values` and `codes` are `out_stride` from a
// pixel to the next; each may be null. Codes come from the table, where there is one and there are
// neither values nor sums by lanes to make. The value of pixel p is added to
// lanes[(lane + p) % kLanes * lane_stride + channel], where there are lanes.
struct FinishTile {
  const void* acc;
  Accumulator type;
  int64_t acc_stride, pixels, channels;
  const float *scale, *shift;
  Function function;
  float most = std::numeric_limits<float>::infinity();
  bool is_near;    // whether all arguments of the function are at most kNearSwish
  bool is_finite;  // whether it is known that none is infinite or NaN
  int64_t out_stride;
  const float* addend;
  float* values;
  uint8_t* codes;
  const Quantizer* quantizer;
  const CodeTable* table;
  float* lanes;
  int64_t lane, lane_stride;
};

// The gradient to values of a run; it passes where they lie inside.
struct GradientRun {
  const float *grad, *mean_grad;
  Quantizer q;
};

// What pays is a matter of how fast dot_tile multiplies, since sparse_tile is one loop of dot
// products everywhere. Measured on pointwise layers of EfficientNet-B1 of 112 to 1920 products: dot
// products break even where a half to a quarter of the groups is left, tiles of AMX, which multiply
// about twice as fast, where a fiftieth is, and on some layers never.
constexpr double kSkippingShare = 0.25, kSkippingShareOfTiles = 0.02;

// Where `streamed` is true, y is aligned to 64 bytes and is written past the caches.
struct Kernels {
  const char* name;

  // Of the groups of four weights at most this share has one that is not zero where sparse_tile
  // takes no longer than dot_tile; see kSkippingShare.
  double skipping_share;

  // Adds the extremes of x [numel] to what is there.
  void (*extremes)(const void* x, DType type, int64_t numel, Extremes* found);
  // `found` may be null.
  void (*fake_quant)(const void* x, DType type, int64_t numel, const Rounding& r, void* y,
                     uint8_t* inside, Extremes* found, bool streamed);
  // Codes are half bytes, or whole ones.
  void (*encode)(const void* x, DType type, int64_t numel, const Rounding& r, bool halves,
                 uint8_t* codes, uint8_t* inside, Extremes* found);
  void (*decode)(const uint8_t* codes, int64_t numel, const Rounding& r, bool halves, float* y,
                 bool streamed);
  void (*select)(const void* values, DType type, const uint8_t* bits, int64_t numel, void* out,
                 bool streamed);

  // Channels [from, to) of a weight, masked and rounded to their own extremes, to values or codes.
  void (*fake_quant_rows)(const Weight& weight, DType type, int scheme, int64_t from, int64_t to,
                          bool streamed);
  void (*codes_rows)(const Weight& weight, DType type, int scheme, int64_t from, int64_t to);
  void (*masked_select)(const void* values, DType type, Bits mask, int64_t numel, void* out);

  void (*learned_fake_quant)(const LearnedRow& row, DType type, void* y);
  // At most kSumBlock elements; returns their sum.
  float (*learned_gradient)(const LearnedRow& row, DType type, const void* grad, void* grad_x);
  float (*sum_block)(const float* x, int64_t numel);

  // Codes [first, first + count) of half bytes, a byte each.
  void (*unpack)(const uint8_t* packed, int64_t first, int64_t count, uint8_t* codes);
  // The codes of two pixels side by side for each channel: of half bytes for 2 * bytes channels, of
  // bytes for `bytes`.
  void (*unpack_pairs)(const uint8_t* left, const uint8_t* right, int64_t bytes, uint8_t* pairs);
  void (*pair_bytes)(const uint8_t* left, const uint8_t* right, int64_t bytes, uint8_t* pairs);
  void (*pair_line)(const PairLine& line);
  void (*dot_tile)(const ConvTile& tile);
  // The sum of each of `pixels` rows of codes, `stride` bytes apart.
  void (*sum_codes)(const uint8_t* x, int64_t stride, int64_t pixels, int64_t depth, int32_t* sums);
  void (*depthwise_row)(const DepthwiseRow& row);
  // Codes [pixels, depth], rows `stride` bytes apart, as a SparseTile reads them.
  void (*interleave_pixels)(const uint8_t* x, int64_t stride, int64_t pixels, int64_t depth,
                            uint8_t* out);
  void (*sparse_tile)(const SparseTile& tile);

  // Elements `from` on as floats, or the values of codes from the `first` on; see ImageValues.
  void (*line_of_floats)(const PixelLine& line, const void* from, DType type);
  void (*line_of_codes)(const PixelLine& line, const uint8_t* codes, int64_t first,
                        const float* table, int levels);
  void (*image_gradient_row)(const ImageGradientRow& row, DType type, void* out);
  void (*weight_gradient_row)(const WeightGradientRow& row);

  // Integers as floats.
  void (*block_floats)(const void* acc, Accumulator type, int64_t count, float* floats);
  // Sums are added to, and extremes widened, place by place of a run.
  void (*block_moments)(const void* acc, Accumulator type, int64_t count, double* sums,
                        double* squares);
  void (*block_extremes)(BlockRun run, float* least, float* most, int32_t* bad);
  void (*block_ends)(const void* acc, Accumulator type, int64_t count, const IntegerEnds& ends);
  void (*block_codes)(BlockRun run, Quantizer q, uint8_t* codes);
  void (*block_values)(BlockRun run, float* values);
  void (*block_add)(BlockRun run, float* sums);
  void (*block_gradient_sums)(BlockRun run, GradientRun g, float* sums, float* products);
  void (*block_gradient_kept)(BlockRun run, GradientRun g, float* sums, float* products, float* dz);
  void (*norm_gradient)(const void* acc, Accumulator type, int64_t count, const float* const* k,
                        float* dz);
  void (*block_gradient)(BlockRun run, GradientRun g, const float* const* k, float* out);
  void (*block_gate_gradient)(BlockRun run, GradientRun g, float* grad_a, float* grad_gate);
  void (*block_step_sums)(BlockRun run, GradientRun g, float* steps, float* offsets);

  // False where a value that should have a code is not finite.
  bool (*finish_tile)(const FinishTile& tile);

  void (*fma_tile)(const FmaTile& tile);
  // sums [rows] of x [count] times w [rows, count], by lanes.
  void (*dot_lanes)(const float* x, const float* w, int64_t count, int64_t rows, float* sums);
  void (*dot_lanes_bytes)(const float* x, const int8_t* w, int64_t count, int64_t rows,
                          float* sums);

  // The larger of two, into the second; NaN is the largest.
  void (*widen)(const float* x, int64_t numel, float* most);
  void (*copy)(const float* from, int64_t numel, float* to);
};

extern const Kernels kBaselineKernels;
#ifdef MICRONET_X86
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#elif defined(MICRONET_ARM64)
extern const Kernels kNeonKernels;
extern const Kernels kNeonDotKernels;
#endif

// What this machine runs, the fastest last, ended by null.
const Kernels* const* available_kernels();

// Uses the table of that name from now on; false, and no change, where this machine has none.
bool choose_kernels(const char* name);

// The table in use: the fastest, unless another was chosen.
const Kernels& kernels();

}  // namespace micronet

#endif  // MICRONET_CPU_KERNELS_H_
