// Convolution of codes on a CUDA device as an implicit product of matrices by tensor cores, in
// tiles. Depthwise ones have tiles of their own. Sums are of codes less zero points, exactly:
// products are summed of the codes themselves, and what the zero point adds is known beforehand.

#include "cuda/conv_tile.h"

namespace micronet {
namespace {

constexpr int kStages = 4;  // tiles of codes and weights in shared memory, all but one on their way
constexpr int kPacketWords = 4;  // of 16 bytes
constexpr int kCodePackets = kTilePixels * kStepWords / kPacketWords;
constexpr int kWeightPackets = kTileOutputs * kStepWords * 2 / kPacketWords;
constexpr int kStagePackets = kCodePackets + kWeightPackets;
constexpr int kStagesMemory = kStages * kStagePackets;
static_assert(kCodePackets == kThreads, "a packet a thread");
static_assert(SumTile<kTileOutputs>::kPackets <= kStagesMemory,
              "sums go where their operands were");

// A warp's part of a tile: 32 pixels in rows of sixteen, 16 outputs in columns of eight.
constexpr int kWarpRows = 2, kWarpColumns = 2;

struct Product {
  QuantConv c;
  PackedWeights weights;
  int pixels, height, width, steps, outputs, group_channels, group_outputs;
  Divisor blocks, group_blocks, out_width, out_height, words;

  Product(const QuantConv& conv, const ConvTiles& tiles, const PackedWeights& packed)
      : c(conv),
        weights(packed),
        pixels(static_cast<int>(conv.shape.pixels())),
        height(static_cast<int>(conv.shape.height)),
        width(static_cast<int>(conv.shape.width)),
        steps(static_cast<int>(tiles.steps)),
        outputs(static_cast<int>(conv.shape.out_channels)),
        group_channels(static_cast<int>(conv.shape.group_channels())),
        group_outputs(static_cast<int>(conv.shape.out_channels / conv.shape.groups)),
        blocks(tiles.blocks),
        group_blocks(tiles.blocks / conv.shape.groups),
        out_width(conv.shape.out_width),
        out_height(conv.shape.out_height),
        words(tiles.words) {}
};

// Where the codes of a pixel of a tile come from.
struct alignas(16) Pixel {
  int64_t code;     // of its first tap and the group's first channel
  int row, column;  // of that tap; kNowhere beyond the last pixel
};

__device__ __forceinline__ Pixel pixel_at(const Product& p, unsigned pixel, int group) {
  const ConvShape& s = p.c.shape;
  unsigned x = pixel, y = p.out_width.divide(&x);
  const int64_t image = p.out_height.divide(&y);
  const int row = static_cast<int>(y) * static_cast<int>(s.stride_y) - static_cast<int>(s.top);
  const int column = static_cast<int>(x) * static_cast<int>(s.stride_x) - static_cast<int>(s.left);
  const int64_t place = (image * s.height + row) * s.width + column;
  return {place * s.in_channels + group * p.group_channels,
          pixel < static_cast<unsigned>(p.pixels) ? row : kNowhere, column};
}

// What this thread brings of each step: half a pixel's codes, and a quarter of an output's weights
// where it is one of the first.
struct Source {
  const Pixel* pixel;  // in shared memory, so that it takes no registers between steps
  int output;
  unsigned padding;
};

// Brings kWidth bytes of codes from a word on; 0: one word, of channels that are not whole words.
template <int kWidth>
__device__ __forceinline__ void bring_codes(const Product& p, const Source& from, int word,
                                            unsigned* to) {
  const Pixel pixel = *from.pixel;
  const TapWord tap = p.weights.taps[word];
  const bool is_inside =
      is_below(pixel.row + tap.down, p.height) && is_below(pixel.column + tap.right, p.width);
  const int64_t code = pixel.code + tap.code;
  if (!is_inside) {
#pragma unroll
    for (int i = 0; i < (kWidth == 0 ? 1 : kWidth / 4); ++i) to[i] = from.padding;
  } else if constexpr (kWidth == 0) {
    unsigned in_tap = static_cast<unsigned>(word);
    p.words.divide(&in_tap);
    *to = gather_codes(p.c.codes, code, p.group_channels - static_cast<int>(in_tap) * kWordCodes);
  } else {
    copy_async<kWidth>(to, p.c.codes + code / 2);
  }
}

// Brings a step of the tile, a packet of codes and one of weights a thread.
template <int kWidth>
__device__ __forceinline__ void bring_step(const Product& p, const Source& from, int step,
                                           uint4* stage) {
  constexpr int kEach = kWidth == 0 ? 1 : kWidth / 4;
  const int me = static_cast<int>(threadIdx.x), word = step * kStepWords + me % 2 * kPacketWords;
#pragma unroll
  for (int i = 0; i < kPacketWords; i += kEach) {
    bring_codes<kWidth>(p, from, word + i, reinterpret_cast<unsigned*>(stage + me) + i);
  }
  if (me >= kWeightPackets) return;
  const int64_t row = static_cast<int64_t>(from.output) * p.steps + step;
  copy_async<16>(stage + kCodePackets + me,
                 p.weights.integers + row * (kStepWords * kWordCodes) + me % 4 * 16);
}

// Four registers of a from two words of codes, of rows g and g + 8.
__device__ __forceinline__ void split_codes(unsigned upper, unsigned lower, unsigned (&a)[4]) {
  a[0] = upper & kHalfBytes;
  a[1] = lower & kHalfBytes;
  a[2] = upper >> 4 & kHalfBytes;
  a[3] = lower >> 4 & kHalfBytes;
}

using Sums = int[kWarpRows][kWarpColumns][4];

__device__ __forceinline__ void multiply_step(const uint4* stage, Sums& sums) {
  const int lane = static_cast<int>(threadIdx.x % kWarp),
            warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = lane / 4, t = lane % 4;
  const uint2* codes = reinterpret_cast<const uint2*>(stage) + (warp % 4 * 32 + g) * 4 + t;
  const uint4* weights = stage + kCodePackets + (warp / 4 * 16 + g) * 4 + t;
  unsigned a[kWarpRows][2][4];
#pragma unroll
  for (int m = 0; m < kWarpRows; ++m) {
    const uint2 upper = codes[m * 16 * 4], lower = codes[(m * 16 + 8) * 4];
    split_codes(upper.x, lower.x, a[m][0]);
    split_codes(upper.y, lower.y, a[m][1]);
  }
#pragma unroll
  for (int n = 0; n < kWarpColumns; ++n) {
    const uint4 b = weights[n * 8 * 4];
#pragma unroll
    for (int m = 0; m < kWarpRows; ++m) {
      multiply_add(a[m][0], b.x, b.y, sums[m][n]);
      multiply_add(a[m][1], b.z, b.w, sums[m][n]);
    }
  }
}

// Sums the steps of a tile that hold weights, used [count]; the others are neither read nor
// multiplied.
template <int kWidth>
__device__ __forceinline__ void sum_steps(const Product& p, const Source& from, const int* used,
                                          int count, uint4* stages, Sums& sums) {
  const auto bring = [&](int i) {
    if (i < count) bring_step<kWidth>(p, from, used[i], stages + i % kStages * kStagePackets);
    commit_copies();
  };
#pragma unroll 1
  for (int i = 0; i < kStages - 1; ++i) bring(i);
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // the step is there, and the one before is no longer read
    bring(i + kStages - 1);
    multiply_step(stages + i % kStages * kStagePackets, sums);
  }
  wait_for_copies<0>();
  __syncthreads();
}

__device__ __forceinline__ void put_tile(const Sums& sums, uint4* tile) {
  const int lane = static_cast<int>(threadIdx.x % kWarp),
            warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < kWarpColumns; ++n) {
#pragma unroll
    for (int m = 0; m < kWarpRows; ++m) {
      SumTile<kTileOutputs>::put(sums[m][n], warp % 4 * 32 + m * 16 + g,
                                 warp / 4 * 16 + n * 8 + 2 * t, tile);
    }
  }
}

// A block makes a tile.
template <int kWidth, Accumulator kKind>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) implicit_gemm(const Product p) {
  __shared__ uint4 memory[kStagesMemory];
  __shared__ Pixel pixels[kTilePixels];
  const int me = static_cast<int>(threadIdx.x);
  unsigned block = blockIdx.x;
  const unsigned first = p.blocks.divide(&block) * kTilePixels;
  unsigned in_group = block;
  const int group = static_cast<int>(p.group_blocks.divide(&in_group));
  const int from = static_cast<int>(in_group) * kTileOutputs;
  const int left = p.group_outputs - from, count = left < kTileOutputs ? left : kTileOutputs;
  const int channel = group * p.group_outputs + from;
  if (me < kTilePixels) pixels[me] = pixel_at(p, first + me, group);
  __syncthreads();
  // Beyond the last output its weights are multiplied again, and not stored.
  const int output = channel + (me / 4 < count ? me / 4 : count - 1);
  Sums sums = {};
  sum_steps<kWidth>(p, {pixels + me / 2, output, *p.weights.padding},
                    p.weights.used + static_cast<int64_t>(block) * p.steps, p.weights.counts[block],
                    memory, sums);
  put_tile(sums, memory);
  __syncthreads();
  take_sums<kTileOutputs, kKind>(p.c, p.weights.offset, memory, channel, count, [&](int in_tile) {
    const int64_t pixel = first + static_cast<unsigned>(in_tile);
    return pixel < p.pixels ? pixel * p.outputs + channel : int64_t{-1};
  });
}

// Bytes of codes that one copy brings, so that it is aligned and of a single tap.
int width_of(const QuantConv& conv) {
  const int64_t bytes = conv.shape.group_channels() / 2;
  for (const int width : {16, 8, 4}) {
    const bool aligned = reinterpret_cast<uintptr_t>(conv.codes) % width == 0;
    if (aligned && conv.shape.group_channels() % 2 == 0 && bytes % width == 0) return width;
  }
  return 0;
}

int product_cuda(const QuantConv& conv, const ConvTiles& tiles, const PackedWeights& weights,
                 void* stream) {
  const int64_t count = (conv.shape.pixels() + kTilePixels - 1) / kTilePixels * tiles.blocks;
  const Product product(conv, tiles, weights);
  const int width = width_of(conv);
  return with_kind(conv.kind, [&](auto kind) {
    constexpr Accumulator kKind = kind.value;
    const auto kernel = width == 16  ? implicit_gemm<16, kKind>
                        : width == 8 ? implicit_gemm<8, kKind>
                        : width == 4 ? implicit_gemm<4, kKind>
                                     : implicit_gemm<0, kKind>;
    return launch(kernel, static_cast<unsigned>(count), stream, product);
  });
}

}  // namespace

int64_t quant_conv2d_cuda_workspace(const ConvShape& shape) {
  return ConvTiles(shape, has_depthwise_tiles(shape)).bytes;
}

int quant_conv2d_cuda(const QuantConv& conv, void* workspace, void* stream) {
  const ConvTiles tiles(conv.shape, has_depthwise_tiles(conv.shape));
  PackedWeights weights{};
  const int status = pack_weights_cuda(conv, tiles, workspace, &weights, stream);
  if (status != kOk) return status;
  return tiles.is_depthwise ? depthwise_cuda(conv, tiles, weights, stream)
                            : product_cuda(conv, tiles, weights, stream);
}

}  // namespace micronet
