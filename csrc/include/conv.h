// Convolution of codes with quantized weights, exactly. See core.h for what all launchers
// share.
#ifndef MICRONET_CONV_H_
#define MICRONET_CONV_H_

#include <cstdint>

#include "include/core.h"

namespace micronet {

// The geometry of a convolution over channels-last images; padding is what lies above and left of
// them, and whatever else the output size takes.
struct ConvShape {
  int64_t images, in_channels, height, width;
  int64_t out_channels, groups;
  int64_t kernel_height, kernel_width;
  int64_t stride_y, stride_x, top, left, dilation_y, dilation_x;
  int64_t out_height, out_width;

  MICRONET_HD_MEMBER int64_t group_channels() const { return in_channels / groups; }
  MICRONET_HD_MEMBER int64_t taps() const { return kernel_height * kernel_width; }
  MICRONET_HD_MEMBER int64_t depth() const {
    return group_channels() * taps();
  }  // products of an output
  MICRONET_HD_MEMBER int64_t in_numel() const { return images * in_channels * height * width; }
  MICRONET_HD_MEMBER int64_t pixels() const { return images * out_height * out_width; }
  MICRONET_HD_MEMBER bool is_depthwise() const {
    return groups == in_channels && out_channels == in_channels;
  }
};

// What a convolution writes: the integer itself, or its value float(acc) * ratio[channel].
enum Accumulator : int { kInt16 = 0, kInt32 = 1, kValue = 2 };

// The largest |acc| of any input and weights: codes less zero points stay within levels - 1.
static inline int64_t accumulator_bound(const ConvShape& shape, int levels, int weight_levels) {
  return int64_t{levels - 1} * (weight_levels - 1) * shape.depth();
}

// Sums of some pixels and channels of an output, integers or floats, `stride` elements from a pixel
// to the next.
struct SumsTile {
  const void* sums;
  Accumulator type;
  int64_t stride;
  int64_t pixel, pixels, channel, channels;
};

// Takes the sums of a convolution tile by tile, while they are in a near cache. Threads call it at
// the same time for tiles of their own; where `in_order`, the tiles of an image come from one
// thread, row by row.
struct SumsReader {
  void (*read)(void* context, const SumsTile& tile);
  void* context;
  bool in_order;
};

// Codes [code_bytes(in_numel, levels)] of channels-last images with their coding, master weights
// [out_channels, group_channels, kernel_height, kernel_width] of a type of DType with their mask,
// or null for all, rounded by a scheme; weight_steps as in Weight. `out` is channels last; ratio
// [out_channels] is 1 / (S_x * S_w). A code of zero pads. A range or a channel that is not finite
// has zero point 0 and a ratio of NaN. Where there is a reader, it has the sums, and `out` nothing.
struct QuantConv {
  ConvShape shape;
  const uint8_t* codes;
  Coding coding;
  const void* w;
  DType type;
  const uint8_t* mask;
  int weight_levels, weight_scheme;
  const float* weight_steps;
  Accumulator kind;
  void* out;
  float* ratio;
  // Whether codes take a byte each, whatever their levels, and 64 bytes more can be read.
  bool has_whole_bytes = false;
  const SumsReader* reader = nullptr;
};

// Bytes that quant_conv2d_cpu needs beside its operands.
int64_t quant_conv2d_workspace(const ConvShape& shape);

// Whether quant_conv2d_cpu lists the weights that are not zero and skips the others: by the rule of
// the break-even table (benchmarks/kernels/skipping.py), never, or wherever it can. The integers
// are the same; tests and benchmarks compare.
enum Skipping : int { kByRule = 0, kNever = 1, kAlways = 2 };
void set_skipping(Skipping when);

// Sums lie within what `kind` holds (32 bits where it is kValue).
int quant_conv2d_cpu(const QuantConv& conv, void* workspace, const ParallelFor& parallel);

// Codes [out_channels, depth] of weights with the scale and zero point of each output channel.
struct WeightCodes {
  const uint8_t* codes;
  const float *scale, *zero_point;
};

// The same in two steps, for weights that stay as they are. The first lays out codes of weights in
// a workspace of quant_conv2d_weight_bytes and writes their `ratio`; the codes are not read again.
// The second has images of any number, whose codes are whole bytes, and changes nothing but its
// output.
int64_t quant_conv2d_weight_bytes(const ConvShape& shape);
int lay_out_weights_cpu(const QuantConv& conv, const WeightCodes& weights, void* workspace,
                        const ParallelFor& parallel);
int quant_conv2d_laid_out_cpu(const QuantConv& conv, const void* workspace,
                              const ParallelFor& parallel);

// As above on a CUDA device, queued on a stream; all pointers are to its memory.
int64_t quant_conv2d_cuda_workspace(const ConvShape& shape);
int quant_conv2d_cuda(const QuantConv& conv, void* workspace, void* stream);

constexpr int64_t kMostInt16 = 32767;
constexpr int64_t kMostInt32 = 2147483647;

// The integers of a weight that a signed byte does not hold are bytes and what is added to all of
// their channel: the byte that an integer of zero point `zero` has is integer - weight_offset.
MICRONET_HD int weight_offset(int zero, int states) {
  return zero < -128 || zero + states - 1 > 127 ? zero + 128 : 0;
}

// How many codes weights of so many levels have.
MICRONET_HD int weight_states(int levels, int scheme) {
  return scheme == kSymmetric ? (levels - 1) / 2 * 2 + 1 : levels;
}

}  // namespace micronet

#endif  // MICRONET_CONV_H_
