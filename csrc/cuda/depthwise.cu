// Depthwise convolution of codes on a CUDA device. Rows of the images lie in shared memory, a word
// of codes for each pixel; tensor cores multiply four taps of eight channels with a diagonal at a
// time, or eight taps of four channels where a code has a byte.

#include "cuda/conv_tile.h"

namespace micronet {
namespace {

// A tile: rows and columns of outputs, and a word of channels a warp.
constexpr int kRowsOut = 8, kColumnsOut = 16, kTileWords = kWarps;
static_assert(kRowsOut * kColumnsOut == kTilePixels, "a tile of sums");
template <int kBits>
constexpr int kInWord = 32 / kBits;  // channels of a word
template <int kBits>
using Tile = SumTile<kTileWords * kInWord<kBits>>;
// Pixels that a word of channels has in shared memory.
constexpr int kPlane = 1152;
constexpr int kRowsMemory = kTileWords * kPlane / 4;
static_assert(Tile<4>::kPackets <= kRowsMemory, "sums go where the rows were");

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
  bool has_offsets;
  int words, slices, taps, rows, height, width, channels, out_height, out_width;
  Divisor columns, kernel_width, across, down, chunks;

  Depthwise(const QuantConv& conv, const ConvTiles& tiles, const PackedWeights& packed)
      : c(conv),
        weights(packed),
        has_offsets(micronet::has_offsets(conv)),
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
template <int kBits, bool kWhole>
__device__ __forceinline__ void bring_rows(const Depthwise& d, const Place& tile,
                                           unsigned* planes) {
  const ConvShape& s = d.c.shape;
  const unsigned padding = *d.weights.padding;
  const int top = tile.y * static_cast<int>(s.stride_y) - static_cast<int>(s.top);
  const int left = tile.x * static_cast<int>(s.stride_x) - static_cast<int>(s.left);
  const int channel = tile.word * kInWord<kBits>, words = d.words - tile.word;
  const bool are_halves = are_half_bytes(d.c.coding.levels);
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
        copy_async<4>(to, d.c.codes + (kBits == 4 ? code / 2 : code) + word * 4);
      } else {
        const int64_t first = code + word * kInWord<kBits>;
        const int left = d.channels - channel - word * kInWord<kBits>;
        *to = kBits == 4 ? gather_codes(d.c.codes, first, left)
                         : gather_bytes(d.c.codes, first, left, are_halves);
      }
    }
  }
}

using RowSums = int[kRowsOut][4];

// Where a warp's lanes read a word of channels: lane 4g + t the pixels of columns g and g + 8 under
// tap t of a slice.
struct Reader {
  const Depthwise& d;
  const unsigned* plane;
  int stride, columns, down;

  __device__ __forceinline__ Reader(const Depthwise& of, const unsigned* words)
      : d(of),
        plane(words),
        stride(static_cast<int>(of.c.shape.stride_x)),
        columns(static_cast<int>(of.columns.value)),
        down(static_cast<int>(of.c.shape.stride_y) * columns) {}

  __device__ __forceinline__ const unsigned* of_slice(int slice) const {
    const int lane = static_cast<int>(threadIdx.x % kWarp), tap = slice * kSliceTaps + lane % 4;
    unsigned kx = static_cast<unsigned>(tap < d.taps ? tap : 0);
    const int ky = static_cast<int>(d.kernel_width.divide(&kx));
    return plane + ky * static_cast<int>(d.c.shape.dilation_y) * columns +
           static_cast<int>(kx) * static_cast<int>(d.c.shape.dilation_x) + lane / 4 * stride;
  }
};

// Sums all slices of a word of channels; those without a weight are left out. Odd half bytes are
// multiplied where they lie, sixteen times themselves; they make the sums of odd channels alone,
// which are divided at the end.
__device__ __forceinline__ void sum_half_bytes(const Reader& reader, const int8_t* weights,
                                               RowSums& sums) {
  const int lane = static_cast<int>(threadIdx.x % kWarp), g = lane / 4;
  for (int slice = 0; slice < reader.d.slices; ++slice) {
    const int weight = weights[slice * kWarp + lane];
    if (!__any_sync(kAllLanes, weight != 0)) continue;
    const unsigned entry = static_cast<unsigned>(weight & 255) << (g / 2 * 8);
    const unsigned even = g % 2 == 0 ? entry : 0, odd = g % 2 == 0 ? 0 : entry;
    const unsigned* at = reader.of_slice(slice);
#pragma unroll
    for (int row = 0; row < kRowsOut; ++row) {
      const unsigned upper = at[row * reader.down];
      const unsigned lower = at[row * reader.down + 8 * reader.stride];
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

// The same of bytes, two slices at a time: columns 0 to 3 are those of the channels, and 4 to 7 sum
// their codes.
__device__ __forceinline__ void sum_bytes(const Reader& reader, const int8_t* weights,
                                          RowSums& sums) {
  const int lane = static_cast<int>(threadIdx.x % kWarp), shift = lane / 4 % 4 * 8;
  for (int slice = 0; slice < reader.d.slices; slice += 2) {
    const int first = weights[slice * kWarp + lane], second = weights[(slice + 1) * kWarp + lane];
    if (!__any_sync(kAllLanes, (first | second) != 0)) continue;
    const unsigned b0 = static_cast<unsigned>(first & 255) << shift;
    const unsigned b1 = static_cast<unsigned>(second & 255) << shift;
    const unsigned *at = reader.of_slice(slice), *next = reader.of_slice(slice + 1);
#pragma unroll
    for (int row = 0; row < kRowsOut; ++row) {
      const int upper = row * reader.down, lower = upper + 8 * reader.stride;
      multiply_add({at[upper], at[lower], next[upper], next[lower]}, b0, b1, sums[row]);
    }
  }
}

// Adds what the bytes of the weights lack: the lanes of columns 4 to 7 have the sums of codes of
// those of 0 to 3.
__device__ __forceinline__ void add_offsets(const Depthwise& d, int channel, RowSums& sums) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int mine = channel + lane % 2 * 2 + i % 2;
    const int offset = mine < d.channels ? d.weights.offset[mine] : 0;
#pragma unroll
    for (int row = 0; row < kRowsOut; ++row) {
      sums[row][i] += offset * __shfl_down_sync(kAllLanes, sums[row][i], 2);
    }
  }
}

// The sums of a warp's word of channels; lane 4g + t gets columns 2t and 2t + 1.
template <int kBits>
__device__ __forceinline__ void sum_word(const Depthwise& d, int word, const unsigned* plane,
                                         RowSums& sums) {
  const Reader reader(d, plane);
  const int8_t* weights = d.weights.integers + static_cast<int64_t>(word) * d.slices * kWarp;
  if constexpr (kBits == 4) {
    sum_half_bytes(reader, weights, sums);
  } else {
    sum_bytes(reader, weights, sums);
    if (d.has_offsets) add_offsets(d, word * kInWord<kBits>, sums);
  }
}

// A block makes a tile; those of one place follow each other, word by word.
__device__ __forceinline__ Place place_of(const Depthwise& d, unsigned block) {
  unsigned chunk = block, x = d.chunks.divide(&chunk), y = d.across.divide(&x);
  const int image = static_cast<int>(d.down.divide(&y));
  return {image, static_cast<int>(y) * kRowsOut, static_cast<int>(x) * kColumnsOut,
          static_cast<int>(chunk) * kTileWords};
}

template <int kBits, bool kWhole, Accumulator kKind>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) depthwise(const Depthwise d) {
  __shared__ uint4 memory[kRowsMemory];
  unsigned* planes = reinterpret_cast<unsigned*>(memory);
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const Place tile = place_of(d, blockIdx.x);
  bring_rows<kBits, kWhole>(d, tile, planes);
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
  RowSums sums = {};
  if (tile.word + warp < d.words)
    sum_word<kBits>(d, tile.word + warp, planes + warp * kPlane, sums);
  __syncthreads();  // the sums go where the rows are
  if (lane % 4 * 2 < kInWord<kBits>) {
#pragma unroll
    for (int row = 0; row < kRowsOut; ++row) {
      Tile<kBits>::put(sums[row], row * kColumnsOut + lane / 4,
                       warp * kInWord<kBits> + lane % 4 * 2, memory);
    }
  }
  __syncthreads();
  constexpr int kOutputs = kTileWords * kInWord<kBits>;
  const int channel = tile.word * kInWord<kBits>;
  const int left = d.channels - channel;
  const int count = left < kOutputs ? left : kOutputs;
  const int64_t first =
      static_cast<int64_t>(tile.image) * d.out_height * d.out_width * d.channels + channel;
  take_sums<kOutputs, false, kKind>(d.c, d.weights, memory, channel, count, [&](int p) {
    const int y = tile.y + p / kColumnsOut, x = tile.x + p % kColumnsOut;
    if (y >= d.out_height || x >= d.out_width) return int64_t{-1};
    return first + static_cast<int64_t>(y * d.out_width + x) * d.channels;
  });
}

template <int kBits>
int launch_depthwise(const Depthwise& d, void* stream) {
  const QuantConv& c = d.c;
  const bool in_place = are_half_bytes(c.coding.levels) == (kBits == 4);
  const bool whole = in_place && c.shape.in_channels % kInWord<kBits> == 0 &&
                     reinterpret_cast<uintptr_t>(c.codes) % 4 == 0;
  return with_kind(c.kind, [&](auto kind) {
    const auto kernel =
        whole ? depthwise<kBits, true, kind.value> : depthwise<kBits, false, kind.value>;
    return launch(kernel, static_cast<unsigned>(d.tiles()), stream, d);
  });
}

}  // namespace

bool has_depthwise_tiles(const ConvShape& shape) {
  return shape.is_depthwise() && rows_of(shape) * columns_of(shape) <= kPlane;
}

int depthwise_cuda(const QuantConv& conv, const ConvTiles& tiles, const PackedWeights& weights,
                   void* stream) {
  const Depthwise d(conv, tiles, weights);
  return tiles.bits == 4 ? launch_depthwise<4>(d, stream) : launch_depthwise<8>(d, stream);
}

}  // namespace micronet
