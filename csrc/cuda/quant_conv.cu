// Convolution of codes on a CUDA device: depthwise with the taps in registers, else as an
// implicit GEMM over tiles of bytes. Codes become integers while they are loaded.

#include "cuda/launch.h"
#include "include/conv_workspace.h"

namespace micronet {
namespace {

constexpr int kPixels = 64, kOutputs = 64;  // a tile of an implicit GEMM
constexpr int kPack = 4;                    // bytes packed into a word
constexpr int kTileWords = 8;               // words that a tile is summed over at a time
constexpr int kThreadItemsX = 4;            // neighboring outputs of a depthwise thread
constexpr int kThreadTile = 4;              // outputs of a thread of an implicit GEMM, each way

struct TileWorkspace : ConvWorkspace {
  int64_t words, steps, blocks;  // of a tap's products, of their tiles, and of output channels
  int64_t integers, used;

  explicit TileWorkspace(const ConvShape& s)
      : ConvWorkspace(s),
        words((s.group_channels() + kPack - 1) / kPack),
        steps((words + kTileWords - 1) / kTileWords),
        blocks(s.groups * ((s.out_channels / s.groups + kOutputs - 1) / kOutputs)) {
    integers = take(s.out_channels * s.taps() * words * kPack);
    used = take(blocks * s.taps() * steps);
  }
};

// The operands on the device. Integers are [out_channels, taps, words * kPack], padded with zeros,
// or where depthwise [taps, channels]; used [blocks, taps, steps] says which tiles hold any.
struct Operands {
  QuantConv c;
  int64_t words, steps, blocks;
  const uint8_t* codes;
  const float *scale, *zero_point;
  int8_t* integers;
  uint8_t* used;
};

__device__ __forceinline__ int whole_of(float zero_point) {
  return zero_point * 0.0f == 0.0f ? static_cast<int>(zero_point) : 0;
}

__device__ __forceinline__ Quantizer input_quantizer(const QuantConv& c) {
  return make_quantizer(c.range[0], c.range[1], c.levels, kAffine);
}

__global__ void pack_weights(const Operands o, bool is_depthwise) {
  const ConvShape& s = o.c.shape;
  const int64_t taps = s.taps(), channels = s.group_channels(), padded = o.words * kPack;
  const int64_t each = is_depthwise ? taps : taps * padded;
  const float input_scale = input_quantizer(o.c).scale;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < s.out_channels * each; i += step) {
    const int64_t output = i / each, tap = is_depthwise ? i % taps : i / padded % taps;
    const int64_t channel = is_depthwise ? 0 : i % padded;
    int whole = 0;
    if (channel < channels) {
      whole = o.codes[output * s.depth() + channel * taps + tap] + whole_of(o.zero_point[output]);
    }
    o.integers[is_depthwise ? tap * s.out_channels + output : i] = static_cast<int8_t>(whole);
    if (i % each == 0) o.c.ratio[output] = 1.0f / (input_scale * o.scale[output]);
  }
}

// One thread for each tile of weights.
__global__ void mark_nonzero_tiles(const Operands o) {
  const ConvShape& s = o.c.shape;
  const int64_t per_group = s.out_channels / s.groups, in_group = o.blocks / s.groups;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < o.blocks * s.taps() * o.steps; i += step) {
    const int64_t first = i % o.steps * kTileWords, tap = i / o.steps % s.taps();
    const int64_t block = i / o.steps / s.taps(), from = block % in_group * kOutputs;
    const int* integers = reinterpret_cast<const int*>(o.integers);
    int found = 0;
    for (int64_t p = from; p < per_group && p < from + kOutputs; ++p) {
      const int64_t output = block / in_group * per_group + p;
      for (int64_t w = first; w < o.words && w < first + kTileWords; ++w) {
        found |= integers[(output * s.taps() + tap) * o.words + w];
      }
    }
    o.used[i] = found != 0;
  }
}

__device__ __forceinline__ int integer_at(const uint8_t* codes, int64_t i, int zero) {
  return (codes[i / 2] >> (i % 2 * 4) & 15) + zero;
}

__device__ __forceinline__ void store_sums(const QuantConv& c, int64_t i, int64_t channel,
                                           int sum) {
  if (c.kind == kInt16) {
    static_cast<int16_t*>(c.out)[i] = static_cast<int16_t>(sum);
  } else if (c.kind == kInt32) {
    static_cast<int32_t*>(c.out)[i] = sum;
  } else {
    static_cast<float*>(c.out)[i] = static_cast<float>(sum) * c.ratio[channel];
  }
}

// Each thread makes kThreadItemsX neighboring outputs of a channel, with one weight at a time in a
// register, zero where it is pruned.
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) depthwise(const Operands o) {
  const QuantConv& c = o.c;
  const ConvShape& s = c.shape;
  const int zero = whole_of(input_quantizer(c).zero_point);
  const int64_t across = (s.out_width + kThreadItemsX - 1) / kThreadItemsX;
  const int64_t count = s.images * s.out_height * across * s.out_channels;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += step) {
    const int64_t channel = i % s.out_channels, group = i / s.out_channels;
    const int64_t x = group % across * kThreadItemsX, line = group / across;
    const int64_t y = line % s.out_height, image = line / s.out_height;
    int sums[kThreadItemsX] = {};
    for (int64_t ky = 0; ky < s.kernel_height; ++ky) {
      const int64_t row = y * s.stride_y - s.top + ky * s.dilation_y;
      if (row < 0 || row >= s.height) continue;
      for (int64_t kx = 0; kx < s.kernel_width; ++kx) {
        const int w = o.integers[(ky * s.kernel_width + kx) * s.out_channels + channel];
#pragma unroll
        for (int p = 0; p < kThreadItemsX; ++p) {
          const int64_t column = (x + p) * s.stride_x - s.left + kx * s.dilation_x;
          if (column < 0 || column >= s.width) continue;
          const int64_t at = ((image * s.height + row) * s.width + column) * s.in_channels;
          sums[p] += w * integer_at(c.codes, at + channel, zero);
        }
      }
    }
#pragma unroll
    for (int p = 0; p < kThreadItemsX; ++p) {
      if (x + p < s.out_width) {
        store_sums(c, (line * s.out_width + x + p) * s.out_channels + channel, channel, sums[p]);
      }
    }
  }
}

// The numbers of a product as words, which divide in fewer registers.
struct Geometry {
  int pixels, height, width, out_height, out_width, taps, kernel_width;
  int stride_y, stride_x, top, left, dilation_y, dilation_x;
  int channels, group_channels, outputs, group_outputs, blocks, group_blocks, words, steps;

  explicit Geometry(const ConvShape& s, const TileWorkspace& at)
      : pixels(as_int(s.pixels())),
        height(as_int(s.height)),
        width(as_int(s.width)),
        out_height(as_int(s.out_height)),
        out_width(as_int(s.out_width)),
        taps(as_int(s.taps())),
        kernel_width(as_int(s.kernel_width)),
        stride_y(as_int(s.stride_y)),
        stride_x(as_int(s.stride_x)),
        top(as_int(s.top)),
        left(as_int(s.left)),
        dilation_y(as_int(s.dilation_y)),
        dilation_x(as_int(s.dilation_x)),
        channels(as_int(s.in_channels)),
        group_channels(as_int(s.group_channels())),
        outputs(as_int(s.out_channels)),
        group_outputs(as_int(s.out_channels / s.groups)),
        blocks(as_int(at.blocks)),
        group_blocks(as_int(at.blocks / s.groups)),
        words(as_int(at.words)),
        steps(as_int(at.steps)) {}

  static int as_int(int64_t v) { return static_cast<int>(v); }
};

// Four integers of a pixel's tap from channel `first` of a group on, zeros beyond its channels and
// outside the image.
__device__ __forceinline__ int word_of_codes(const Geometry& g, const uint8_t* codes, int pixel,
                                             int tap, int group, int first, int zero) {
  if (pixel >= g.pixels) return 0;
  const int line = pixel / g.out_width, x = pixel - line * g.out_width;
  const int image = line / g.out_height, y = line - image * g.out_height;
  const int row = y * g.stride_y - g.top + tap / g.kernel_width * g.dilation_y;
  const int column = x * g.stride_x - g.left + tap % g.kernel_width * g.dilation_x;
  if (row < 0 || row >= g.height || column < 0 || column >= g.width) return 0;
  const int64_t at =
      (static_cast<int64_t>(image * g.height + row) * g.width + column) * g.channels +
      group * g.group_channels + first;
  unsigned word = 0;
#pragma unroll
  for (int d = 0; d < kPack; ++d) {
    if (first + d >= g.group_channels) break;
    word |= static_cast<unsigned>(integer_at(codes, at + d, zero) & 255) << (8 * d);
  }
  return static_cast<int>(word);
}

// A block makes kPixels by kOutputs outputs; tiles without a weight are neither read nor summed.
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    implicit_gemm(const QuantConv c, const Geometry g, const int* integers, const uint8_t* used) {
  __shared__ int codes[kTileWords][kPixels], weights[kTileWords][kOutputs];
  const int zero = whole_of(input_quantizer(c).zero_point);
  const int me = static_cast<int>(threadIdx.x), px = me % 16, py = me / 16;
  const int tiles = (g.pixels + kPixels - 1) / kPixels;
  for (int64_t tile = blockIdx.x; tile < static_cast<int64_t>(tiles) * g.blocks;
       tile += gridDim.x) {
    const int block = static_cast<int>(tile % g.blocks);
    const int first_pixel = static_cast<int>(tile / g.blocks) * kPixels;
    const int group = block / g.group_blocks, from = block % g.group_blocks * kOutputs;
    int sums[kThreadTile][kThreadTile] = {};
    for (int at = 0; at < g.taps * g.steps; ++at) {
      if (used[static_cast<int64_t>(block) * g.taps * g.steps + at] == 0) continue;
      const int tap = at / g.steps, word = at % g.steps * kTileWords;
      __syncthreads();  // what was loaded before is still read
      for (int i = me; i < kTileWords * kPixels; i += kThreads) {
        const int k = i % kTileWords, p = i / kTileWords;
        codes[k][p] =
            word_of_codes(g, c.codes, first_pixel + p, tap, group, (word + k) * kPack, zero);
        const bool known = from + p < g.group_outputs && word + k < g.words;
        const int64_t output = group * g.group_outputs + from + p;
        weights[k][p] = known ? integers[(output * g.taps + tap) * g.words + word + k] : 0;
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kTileWords; ++k) {
#pragma unroll
        for (int i = 0; i < kThreadTile; ++i) {
#pragma unroll
          for (int j = 0; j < kThreadTile; ++j) {
            sums[i][j] = __dp4a(codes[k][py + 16 * i], weights[k][px + 16 * j], sums[i][j]);
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kThreadTile; ++i) {
#pragma unroll
      for (int j = 0; j < kThreadTile; ++j) {
        const int pixel = first_pixel + py + 16 * i, output = from + px + 16 * j;
        if (pixel >= g.pixels || output >= g.group_outputs) continue;
        const int channel = group * g.group_outputs + output;
        store_sums(c, static_cast<int64_t>(pixel) * g.outputs + channel, channel, sums[i][j]);
      }
    }
  }
}

}  // namespace

int64_t quant_conv2d_cuda_workspace(const ConvShape& shape) { return TileWorkspace(shape).bytes; }

int quant_conv2d_cuda(const QuantConv& conv, void* workspace, void* stream) {
  const ConvShape& s = conv.shape;
  const TileWorkspace at(s);
  uint8_t* memory = static_cast<uint8_t*>(workspace);
  const Weight weight = at.weight_of(conv, memory);
  int status = quantize_per_channel_cuda(weight, conv.type, kAffine, stream);
  const Operands o{conv,
                   at.words,
                   at.steps,
                   at.blocks,
                   memory + at.weight_codes,
                   weight.scale,
                   weight.zero_point,
                   reinterpret_cast<int8_t*>(memory + at.integers),
                   memory + at.used};
  const bool is_depthwise = s.is_depthwise();
  const int64_t integers = s.out_channels * s.taps() * (is_depthwise ? 1 : at.words * kPack);
  if (status == kOk) status = launch(pack_weights, grid_for(integers), stream, o, is_depthwise);
  if (status != kOk) return status;
  if (is_depthwise) {
    const int64_t across = (s.out_width + kThreadItemsX - 1) / kThreadItemsX;
    const int64_t threads = s.images * s.out_height * across * s.out_channels;
    return launch(depthwise, grid_for(threads), stream, o);
  }
  status = launch(mark_nonzero_tiles, grid_for(at.blocks * s.taps() * at.steps), stream, o);
  if (status != kOk) return status;
  const int64_t tiles = (s.pixels() + kPixels - 1) / kPixels * at.blocks;
  return launch(implicit_gemm, grid_for(tiles * kThreads), stream, conv, Geometry(s, at),
                reinterpret_cast<const int*>(o.integers), o.used);
}

}  // namespace micronet
