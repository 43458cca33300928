// Weights of a convolution of codes as tensor cores take them.
#ifndef MICRONET_CUDA_CONV_WEIGHTS_H_
#define MICRONET_CUDA_CONV_WEIGHTS_H_

#include <climits>

#include "cuda/launch.h"
#include "include/conv_workspace.h"

namespace micronet {

constexpr int kTileOutputs = 32;  // columns of a tile of a product
constexpr int kWordCodes = 8;     // codes of a word, all of one tap
constexpr int kStepWords = 8;     // words that a tile is summed over at a time
constexpr int kSliceTaps = 4;     // taps of a word of channels that an instruction multiplies

// Output channels of a tile: all of its columns, or all but one that sums codes.
MICRONET_HD constexpr int tile_outputs(bool sums_codes) {
  return sums_codes ? kTileOutputs - 1 : kTileOutputs;
}

// The products of an output are words of eight channels, tap by tap, zeros beyond a tap's channels
// and up to whole steps. A word of half bytes is split into its even and its odd ones, so a word's
// weights are those of its channels 0, 2, 4, 6 and then 1, 3, 5, 7. After the rows of all outputs
// comes one of ones, whose sums are those of the codes.
//
// Depthwise, an instruction takes a slice of four taps of eight channels that have half a byte
// each, and b is diagonal: lane 4g + t has the weight of channel g at the slice's tap t. Of
// channels that have a byte each it takes two slices of four channels; lanes of g >= 4 have ones
// where the bytes of channel g - 4 lack an offset.
struct ConvTiles : ConvWorkspace {
  bool is_depthwise;
  int bits;        // that a code has where tensor cores take it from, 4 or 8
  int64_t words;   // of a tap, or of all channels where depthwise
  int64_t steps;   // of a row of words, or slices of taps
  int64_t blocks;  // of output channels
  int64_t integers, correction, offset, padding, taps, used, counts;

  ConvTiles(const ConvShape& s, int bits, bool has_offsets);
  explicit ConvTiles(const QuantConv& conv);

  int64_t row_bytes() const { return steps * kStepWords * kWordCodes; }
};

// Whether a channel of the weights may have an offset, see weight_offset.
bool has_offsets(const QuantConv& conv);

// Whether a convolution has a kernel of its own for depthwise ones: its taps must not reach too
// far.
bool has_depthwise_tiles(const ConvShape& shape);

// Where the codes of a word of a row lie, from the first tap and channel on.
struct alignas(16) TapWord {
  int64_t code;
  int down, right;  // far above every image where the row is filled up
};
constexpr int kNowhere = INT_MIN / 2;

struct PackedWeights {
  // [out_channels + 1, steps, 64], or depthwise [words, slices, 32]; less the offset of the
  // channel.
  const int8_t* integers;
  // [out_channels]: the input's zero point times the sum of the weights, which makes sums of
  // integers of sums of codes; and what the bytes of the weights lack.
  const int *correction, *offset;
  // A word of the code that stands for zero.
  const unsigned* padding;
  // Not where depthwise: [steps, 8]; the steps of each block that hold any weight [blocks, steps],
  // and how many they are [blocks].
  const TapWord* taps;
  const int *used, *counts;
};

// Rounds the weights of a convolution into its workspace, and fills its ratio.
int pack_weights_cuda(const QuantConv& conv, const ConvTiles& tiles, void* workspace,
                      PackedWeights* packed, void* stream);

// Convolves after that. `tiles` of a depthwise convolution, or not.
int depthwise_cuda(const QuantConv& conv, const ConvTiles& tiles, const PackedWeights& weights,
                   void* stream);

}  // namespace micronet

#endif  // MICRONET_CUDA_CONV_WEIGHTS_H_
