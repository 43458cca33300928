// Convolution of codes on a CUDA device as an implicit product of matrices by tensor cores, in
// tiles. Depthwise ones have tiles of their own. Sums are of codes less zero points, exactly:
// products are summed of the codes themselves, and what the zero point adds is known beforehand.

#include <algorithm>

#include "cuda/conv_tile.h"

namespace micronet {
namespace {

constexpr int kCopyBytes = 16;
constexpr int kThreadWords = 4;  // of codes, that a thread brings of a step
static_assert(kTilePixels * kStepWords == kThreads * kThreadWords, "all words of a step");
constexpr int kWeightPackets = kTileOutputs * kStepWords * kWordCodes / kCopyBytes;
constexpr int kRowPackets = kStepWords * kWordCodes / kCopyBytes;  // of weights of an output

// What a step takes in shared memory, in packets of 16 bytes: the codes of a tile, of kBits each,
// and the weights of its outputs.
template <int kBits>
struct Stage {
  static constexpr int kWordBytes = kBits * kWordCodes / 8;
  static constexpr int kCodes = kTilePixels * kStepWords * kWordBytes / kCopyBytes;
  static constexpr int kPackets = kCodes + kWeightPackets;
  // All but one are on their way. Four blocks of as many leave room on an sm_80.
  static constexpr int kCount = kBits == 4 ? 4 : 3;
  static constexpr int kMemory = kCount * kPackets;
  static_assert(SumTile<kTileOutputs>::kPackets <= kMemory, "sums go where their operands were");
};

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
template <int kWidth, int kBits>
__device__ __forceinline__ void bring_codes(const Product& p, const Source& from, int word,
                                            unsigned* to) {
  constexpr int kWordBytes = Stage<kBits>::kWordBytes;
  const Pixel pixel = *from.pixel;
  const TapWord tap = p.weights.taps[word];
  const bool is_inside =
      is_below(pixel.row + tap.down, p.height) && is_below(pixel.column + tap.right, p.width);
  const int64_t code = pixel.code + tap.code;
  if (!is_inside) {
#pragma unroll
    for (int i = 0; i < (kWidth == 0 ? kWordBytes : kWidth) / 4; ++i) to[i] = from.padding;
  } else if constexpr (kWidth == 0) {
    unsigned in_tap = static_cast<unsigned>(word);
    p.words.divide(&in_tap);
    const int left = p.group_channels - static_cast<int>(in_tap) * kWordCodes;
    if constexpr (kBits == 4) {
      *to = gather_codes(p.c.codes, code, left);
    } else {
      to[0] = gather_bytes(p.c.codes, code, left, false);
      to[1] = gather_bytes(p.c.codes, code + 4, left - 4, false);
    }
  } else {
    copy_async<kWidth>(to, p.c.codes + (kBits == 4 ? code / 2 : code));
  }
}

// Brings a step of the tile, four words of codes and a packet of weights a thread.
template <int kWidth, int kBits>
__device__ __forceinline__ void bring_step(const Product& p, const Source& from, int step,
                                           uint4* stage) {
  using In = Stage<kBits>;
  constexpr int kEach = kWidth == 0 ? 1 : kWidth / In::kWordBytes;
  const int me = static_cast<int>(threadIdx.x), word = step * kStepWords + me % 2 * kThreadWords;
  unsigned* to = reinterpret_cast<unsigned*>(stage) + me * (kThreadWords * In::kWordBytes / 4);
#pragma unroll
  for (int i = 0; i < kThreadWords; i += kEach) {
    bring_codes<kWidth, kBits>(p, from, word + i, to + i * In::kWordBytes / 4);
  }
  if (me >= kWeightPackets) return;
  const int64_t row = static_cast<int64_t>(from.output) * p.steps + step;
  copy_async<16>(stage + In::kCodes + me,
                 p.weights.integers + row * (kStepWords * kWordCodes) + me % kRowPackets * 16);
}

// Four registers of a from two words of half bytes, of rows g and g + 8.
__device__ __forceinline__ void split_codes(unsigned upper, unsigned lower, unsigned (&a)[4]) {
  a[0] = upper & kHalfBytes;
  a[1] = lower & kHalfBytes;
  a[2] = upper >> 4 & kHalfBytes;
  a[3] = lower >> 4 & kHalfBytes;
}

// The registers of a for two instructions, from two words of rows g and g + 8.
template <int kBits>
__device__ __forceinline__ void load_codes(const uint4* stage, int row, int t,
                                           unsigned (&a)[2][4]) {
  if constexpr (kBits == 4) {
    const uint2* words = reinterpret_cast<const uint2*>(stage) + row * 4 + t;
    const uint2 upper = words[0], lower = words[8 * 4];
    split_codes(upper.x, lower.x, a[0]);
    split_codes(upper.y, lower.y, a[1]);
  } else {
    const uint4 upper = stage[row * 4 + t], lower = stage[(row + 8) * 4 + t];
    a[0][0] = upper.x, a[0][1] = lower.x, a[0][2] = upper.y, a[0][3] = lower.y;
    a[1][0] = upper.z, a[1][1] = lower.z, a[1][2] = upper.w, a[1][3] = lower.w;
  }
}

using Sums = int[kWarpRows][kWarpColumns][4];

template <int kBits>
__device__ __forceinline__ void multiply_step(const uint4* stage, Sums& sums) {
  const int lane = static_cast<int>(threadIdx.x % kWarp),
            warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = lane / 4, t = lane % 4;
  const uint4* weights = stage + Stage<kBits>::kCodes + (warp / 4 * 16 + g) * kRowPackets + t;
  unsigned a[kWarpRows][2][4];
#pragma unroll
  for (int m = 0; m < kWarpRows; ++m) {
    load_codes<kBits>(stage, warp % 4 * 32 + m * 16 + g, t, a[m]);
  }
#pragma unroll
  for (int n = 0; n < kWarpColumns; ++n) {
    const uint4 b = weights[n * 8 * kRowPackets];
#pragma unroll
    for (int m = 0; m < kWarpRows; ++m) {
      multiply_add(a[m][0], b.x, b.y, sums[m][n]);
      multiply_add(a[m][1], b.z, b.w, sums[m][n]);
    }
  }
}

// Sums the steps of a tile that hold weights, used [count]; the others are neither read nor
// multiplied.
template <int kWidth, int kBits>
__device__ __forceinline__ void sum_steps(const Product& p, const Source& from, const int* used,
                                          int count, uint4* stages, Sums& sums) {
  using In = Stage<kBits>;
  const auto bring = [&](int i) {
    if (i < count) {
      bring_step<kWidth, kBits>(p, from, used[i], stages + i % In::kCount * In::kPackets);
    }
    commit_copies();
  };
#pragma unroll 1
  for (int i = 0; i < In::kCount - 1; ++i) bring(i);
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    wait_for_copies<In::kCount - 2>();
    __syncthreads();  // the step is there, and the one before is no longer read
    bring(i + In::kCount - 1);
    multiply_step<kBits>(stages + i % In::kCount * In::kPackets, sums);
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

// A block makes a tile. Where it sums codes as well, they are the last of its outputs.
template <int kWidth, int kBits, bool kSummed, Accumulator kKind>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) implicit_gemm(const Product p) {
  __shared__ uint4 memory[Stage<kBits>::kMemory];
  __shared__ Pixel pixels[kTilePixels];
  constexpr int kOutputs = tile_outputs(kSummed);
  const int me = static_cast<int>(threadIdx.x);
  unsigned block = blockIdx.x;
  const unsigned first = p.blocks.divide(&block) * kTilePixels;
  unsigned in_group = block;
  const int group = static_cast<int>(p.group_blocks.divide(&in_group));
  const int from = static_cast<int>(in_group) * kOutputs;
  const int left = p.group_outputs - from, count = left < kOutputs ? left : kOutputs;
  const int channel = group * p.group_outputs + from;
  if (me < kTilePixels) pixels[me] = pixel_at(p, first + me, group);
  __syncthreads();
  // Beyond the last output its weights are multiplied again, and not stored.
  int output = channel + (me / kRowPackets < count ? me / kRowPackets : count - 1);
  if (kSummed && me / kRowPackets == kOutputs) output = p.outputs;
  Sums sums = {};
  sum_steps<kWidth, kBits>(p, {pixels + me / 2, output, *p.weights.padding},
                           p.weights.used + static_cast<int64_t>(block) * p.steps,
                           p.weights.counts[block], memory, sums);
  put_tile(sums, memory);
  __syncthreads();
  take_sums<kTileOutputs, kSummed, kKind>(p.c, p.weights, memory, channel, count, [&](int in_tile) {
    const int64_t pixel = first + static_cast<unsigned>(in_tile);
    return pixel < p.pixels ? pixel * p.outputs + channel : int64_t{-1};
  });
}

// Bytes of codes that one copy brings, so that it is aligned and of a single tap.
int width_of(const QuantConv& conv, int bits) {
  const int64_t channels = conv.shape.group_channels();
  for (const int width : {16, 8, 4}) {
    const bool aligned = reinterpret_cast<uintptr_t>(conv.codes) % width == 0;
    if (aligned && width >= bits && channels * bits % (8 * width) == 0) return width;
  }
  return 0;
}

template <int kBits, bool kSummed>
int launch_product(const Product& product, unsigned tiles, void* stream) {
  const int width = width_of(product.c, kBits);
  return with_kind(product.c.kind, [&](auto kind) {
    constexpr Accumulator kKind = kind.value;
    const auto kernel = width == 16  ? implicit_gemm<16, kBits, kSummed, kKind>
                        : width == 8 ? implicit_gemm<8, kBits, kSummed, kKind>
                                     : width == 4 ? implicit_gemm < kBits == 4 ? 4 : 0,
               kBits, kSummed, kKind > : implicit_gemm<0, kBits, kSummed, kKind>;
    return launch(kernel, tiles, stream, product);
  });
}

int product_cuda(const QuantConv& conv, const ConvTiles& tiles, const PackedWeights& weights,
                 void* stream) {
  const int64_t count = (conv.shape.pixels() + kTilePixels - 1) / kTilePixels * tiles.blocks;
  const Product product(conv, tiles, weights);
  const unsigned all = static_cast<unsigned>(count);
  if (has_offsets(conv)) {
    return tiles.bits == 4 ? launch_product<4, true>(product, all, stream)
                           : launch_product<8, true>(product, all, stream);
  }
  return tiles.bits == 4 ? launch_product<4, false>(product, all, stream)
                         : launch_product<8, false>(product, all, stream);
}

}  // namespace

int64_t quant_conv2d_cuda_workspace(const ConvShape& shape) {
  return std::max(ConvTiles(shape, 4, true).bytes, ConvTiles(shape, 8, true).bytes);
}

int quant_conv2d_cuda(const QuantConv& conv, void* workspace, void* stream) {
  const ConvTiles tiles(conv);
  PackedWeights weights{};
  const int status = pack_weights_cuda(conv, tiles, workspace, &weights, stream);
  if (status != kOk) return status;
  return tiles.is_depthwise ? depthwise_cuda(conv, tiles, weights, stream)
                            : product_cuda(conv, tiles, weights, stream);
}

}  // namespace micronet
