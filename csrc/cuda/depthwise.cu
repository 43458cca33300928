// Depthwise convolution of codes on a CUDA device. Rows of the images lie in shared memory as
// packed codes; tensor cores multiply four taps of eight channels with a diagonal at a time.

#include "cuda/conv_tile.h"

namespace micronet {
namespace {

// A tile: rows and columns of outputs, and a word of channels a warp.
constexpr int kRowsOut = 8, kColumnsOut = 16, kTileWords = kWarps;
static_assert(kRowsOut * kColumnsOut == kTilePixels, "a tile of sums");
using Tile = SumTile<kTileWords * kWordCodes>;
// Pixels that a word of channels has in shared memory.
constexpr int kPlane = 1152;
constexpr int kPlanePackets = kTileWords * kPlane / 4;
constexpr int kRowsMemory = kPlanePackets > Tile::kPackets ? kPlanePackets : Tile::kPackets;

int64_t reach(int64_t outputs, int64_t stride, int64_t kernel, int64_t dilation) {
  return (outputs - 1) * stride + (kernel - 1) * dilation + 1;
}
int64_t rows_of(const ConvShape& s) {
  return reach(kRowsOut, s.stride_y, s.kernel_height, s.dilation_y);
}
int64_t columns_of(const ConvShape& s) {
  return reach(kColumnsOut, s.stride_x, s.kernel_width, s.dilation_x);
}

struct Depthwise {
  QuantConv c;
  PackedWeights weights;
  int words, slices, taps, rows, height, width, channels, out_height, out_width;
  Divisor columns, kernel_width, across, down, chunks;

  Depthwise(const QuantConv& conv, const ConvTiles& tiles, const PackedWeights& packed)
      : c(conv),
        weights(packed),
        words(static_cast<int>(tiles.words)),
        slices(static_cast<int>(tiles.steps)),
        taps(static_cast<int>(conv.shape.taps())),
        rows(static_cast<int>(rows_of(conv.shape))),
        height(static_cast<int>(conv.shape.height)),
        width(static_cast<int>(conv.shape.width)),
        channels(static_cast<int>(conv.shape.in_channels)),
        out_height(static_cast<int>(conv.shape.out_height)),
        out_width(static_cast<int>(conv.shape.out_width)),
        columns(columns_of(conv.shape)),
        kernel_width(conv.shape.kernel_width),
        across((conv.shape.out_width + kColumnsOut - 1) / kColumnsOut),
        down((conv.shape.out_height + kRowsOut - 1) / kRowsOut),
        chunks((tiles.words + kTileWords - 1) / kTileWords) {}

  int64_t tiles() const { return c.shape.images * down.value * across.value * chunks.value; }
};

// What a block makes: its first output, and its first word of channels.
struct Place {
  int image, y, x, word;
};

// Brings the rows that a tile reads, all words of a pixel by one thread.
template <bool kWhole>
__device__ __forceinline__ void bring_rows(const Depthwise& d, const Place& tile,
                                           unsigned* planes) {
  const ConvShape& s = d.c.shape;
  const unsigned padding = *d.weights.padding;
  const int top = tile.y * static_cast<int>(s.stride_y) - static_cast<int>(s.top);
  const int left = tile.x * static_cast<int>(s.stride_x) - static_cast<int>(s.left);
  const int channel = tile.word * kWordCodes, words = d.words - tile.word;
  const int64_t image =
      static_cast<int64_t>(tile.image) * d.height * d.width * d.channels + channel;
#pragma unroll 1
  for (int pixel = static_cast<int>(threadIdx.x);
       pixel < d.rows * static_cast<int>(d.columns.value); pixel += kThreads) {
    unsigned in_row = static_cast<unsigned>(pixel);
    const int row = top + static_cast<int>(d.columns.divide(&in_row));
    const int column = left + static_cast<int>(in_row);
    const bool is_inside = is_below(row, d.height) && is_below(column, d.width);
    const int64_t code = image + static_cast<int64_t>(row * d.width + column) * d.channels;
#pragma unroll
    for (int word = 0; word < kTileWords; ++word) {
      if (word >= words) break;
      unsigned* to = planes + word * kPlane + pixel;
      if (!is_inside) {
        *to = padding;
      } else if constexpr (kWhole) {
        copy_async<4>(to, d.c.codes + code / 2 + word * (kWordCodes / 2));
      } else {
        *to = gather_codes(d.c.codes, code + word * kWordCodes,
                           d.channels - channel - word * kWordCodes);
      }
    }
  }
}

using RowSums = int[kRowsOut][4];

// Sums all slices of a word of channels; those without a weight are left out. Lane 4g + t reads the
// pixels of columns g and g + 8 under tap t. Odd codes are multiplied where they lie, sixteen times
// themselves; they make the sums of odd channels alone, which are divided at the end.
__device__ __forceinline__ void sum_slices(const Depthwise& d, int word, const unsigned* plane,
                                           RowSums& sums) {
  const ConvShape& s = d.c.shape;
  const int lane = static_cast<int>(threadIdx.x % kWarp), g = lane / 4;
  const int stride = static_cast<int>(s.stride_x), columns = static_cast<int>(d.columns.value);
  const int down = static_cast<int>(s.stride_y) * columns;
  const int8_t* weights = d.weights.integers + static_cast<int64_t>(word) * d.slices * kWarp + lane;
  for (int slice = 0; slice < d.slices; ++slice) {
    const int weight = weights[slice * kWarp];
    if (!__any_sync(kAllLanes, weight != 0)) continue;
    const unsigned entry = static_cast<unsigned>(weight & 255) << (g / 2 * 8);
    const unsigned even = g % 2 == 0 ? entry : 0, odd = g % 2 == 0 ? 0 : entry;
    const int tap = slice * kSliceTaps + lane % 4;
    unsigned kx = static_cast<unsigned>(tap < d.taps ? tap : 0);
    const int ky = static_cast<int>(d.kernel_width.divide(&kx));
    const unsigned* at = plane + ky * static_cast<int>(s.dilation_y) * columns +
                         static_cast<int>(kx) * static_cast<int>(s.dilation_x) + g * stride;
#pragma unroll
    for (int row = 0; row < kRowsOut; ++row) {
      const unsigned upper = at[row * down], lower = at[row * down + 8 * stride];
      multiply_add(
          {upper & kHalfBytes, lower & kHalfBytes, upper & ~kHalfBytes, lower & ~kHalfBytes}, even,
          odd, sums[row]);
    }
  }
#pragma unroll
  for (int row = 0; row < kRowsOut; ++row) {
    sums[row][1] >>= 4;
    sums[row][3] >>= 4;
  }
}

// A block makes a tile; those of one place follow each other, word by word.
__device__ __forceinline__ Place place_of(const Depthwise& d, unsigned block) {
  unsigned chunk = block, x = d.chunks.divide(&chunk), y = d.across.divide(&x);
  const int image = static_cast<int>(d.down.divide(&y));
  return {image, static_cast<int>(y) * kRowsOut, static_cast<int>(x) * kColumnsOut,
          static_cast<int>(chunk) * kTileWords};
}

template <bool kWhole, Accumulator kKind>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) depthwise(const Depthwise d) {
  __shared__ uint4 memory[kRowsMemory];
  unsigned* planes = reinterpret_cast<unsigned*>(memory);
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const Place tile = place_of(d, blockIdx.x);
  bring_rows<kWhole>(d, tile, planes);
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
  RowSums sums = {};
  if (tile.word + warp < d.words) sum_slices(d, tile.word + warp, planes + warp * kPlane, sums);
  __syncthreads();  // the sums go where the rows are
#pragma unroll
  for (int row = 0; row < kRowsOut; ++row) {
    Tile::put(sums[row], row * kColumnsOut + lane / 4, warp * kWordCodes + lane % 4 * 2, memory);
  }
  __syncthreads();
  const int channel = tile.word * kWordCodes;
  const int left = d.channels - channel;
  const int count = left < kTileWords * kWordCodes ? left : kTileWords * kWordCodes;
  const int64_t first =
      static_cast<int64_t>(tile.image) * d.out_height * d.out_width * d.channels + channel;
  take_sums<kTileWords * kWordCodes, kKind>(
      d.c, d.weights.offset, memory, channel, count, [&](int p) {
        const int y = tile.y + p / kColumnsOut, x = tile.x + p % kColumnsOut;
        if (y >= d.out_height || x >= d.out_width) return int64_t{-1};
        return first + static_cast<int64_t>(y * d.out_width + x) * d.channels;
      });
}

}  // namespace

bool has_depthwise_tiles(const ConvShape& shape) {
  return shape.is_depthwise() && rows_of(shape) * columns_of(shape) <= kPlane;
}

int depthwise_cuda(const QuantConv& conv, const ConvTiles& tiles, const PackedWeights& weights,
                   void* stream) {
  const Depthwise d(conv, tiles, weights);
  const bool whole =
      conv.shape.in_channels % kWordCodes == 0 && reinterpret_cast<uintptr_t>(conv.codes) % 4 == 0;
  return with_kind(conv.kind, [&](auto kind) {
    const auto kernel = whole ? depthwise<true, kind.value> : depthwise<false, kind.value>;
    return launch(kernel, static_cast<unsigned>(d.tiles()), stream, d);
  });
}

}  // namespace micronet
