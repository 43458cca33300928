// Convolution of codes as dot products over panels of weights, or over those that are not zero.

#include <atomic>

#include "cpu/conv_operands.h"
#include "cpu/depthwise.h"
#include "cpu/sparse.h"

namespace micronet {
namespace {

constexpr int64_t kTilePixels = 96;
constexpr int64_t kTileBytes = 65536;  // of gathered codes, which are to stay in a near cache

// The rule: of the groups of four weights at most this share has one that is not zero, and sums are
// long enough to make up for bringing the codes into order.
constexpr double kSkippingShare = 0.25;
constexpr int64_t kSkippingDepth = 64;
std::atomic<Skipping> skipping{kByRule};

struct Convolution : ConvOperands {
  using ConvOperands::ConvOperands;

  // Bytes that are read where they lie: whole ones, and no dot product reads past the last.
  bool reads_codes() const {
    return c.has_whole_bytes || (!has_halves() && (!is_in_place() || at.depth == s.depth()));
  }
  const uint8_t* bytes() const { return reads_codes() ? c.codes : codes(); }

  // The codes of a line of an image, null outside it.
  const uint8_t* line_of(int64_t image, int64_t y) const {
    if (y < 0 || y >= s.height) return nullptr;
    return bytes() + (image * s.height + y) * s.width * s.in_channels;
  }

  // Whether the codes of a pixel lie as a dot product wants them.
  bool is_in_place() const {
    return s.taps() == 1 && s.stride_y == 1 && s.stride_x == 1 && s.top == 0 && s.left == 0 &&
           s.out_height == s.height && s.out_width == s.width;
  }

  // The codes that make output pixel `pixel` of a group, padded with the code of zero.
  void gather(int64_t pixel, int64_t group, uint8_t* to) const {
    const int64_t channels = s.group_channels(), x = pixel % s.out_width;
    const int64_t y = pixel / s.out_width % s.out_height;
    const int64_t image = pixel / s.out_width / s.out_height;
    for (int64_t ky = 0; ky < s.kernel_height; ++ky) {
      const uint8_t* line = line_of(image, y * s.stride_y - s.top + ky * s.dilation_y);
      for (int64_t kx = 0; kx < s.kernel_width; ++kx, to += channels) {
        const int64_t column = x * s.stride_x - s.left + kx * s.dilation_x;
        if (line == nullptr || column < 0 || column >= s.width) {
          std::memset(to, -zero_point, static_cast<size_t>(channels));
        } else {
          std::memcpy(to, line + column * s.in_channels + group * channels,
                      static_cast<size_t>(channels));
        }
      }
    }
  }

  ConvTile tile_of(int64_t group, int64_t first, int64_t pixels, bool streamed, const uint8_t* x,
                   int64_t stride, const int32_t* sums) const {
    const int64_t per_group = s.out_channels / s.groups, column = group * at.group_channels;
    return {x,
            stride,
            pixels,
            panels() + column * at.depth,
            at.depth,
            correction() + column,
            sums == nullptr ? nullptr : offset() + column,
            sums,
            is_wide(),
            padded_ratio() + column,
            c.kind,
            out(first * s.out_channels + group * per_group),
            s.out_channels,
            per_group,
            streamed};
  }

  // Past the caches only in whole lines: what is left of one would be read first.
  bool is_streamed() const {
    const int64_t row = s.out_channels * out_width_bytes();
    return row % 64 == 0 && leaves_cache(c.out, s.pixels() * row);
  }

  // The sums of the integers of some pixels.
  void add_up(const uint8_t* x, int64_t stride, int64_t pixels, int32_t* sums) const {
    for (int64_t p = 0; p < pixels; ++p) {
      uint32_t sum = 0;
      for (int64_t k = 0; k < s.depth(); ++k) sum += x[p * stride + k];
      sums[p] = static_cast<int32_t>(int64_t{sum} + zero_point * s.depth());
    }
  }

  // Calls body(group, first pixel, pixels, codes, stride, sums of integers or null, memory) for
  // tiles of `tile` pixels, with `scratch` bytes of memory.
  template <typename Body>
  void for_tiles(const ParallelFor& parallel, int64_t tile, int64_t scratch,
                 const Body& body) const {
    const bool in_place = is_in_place(), summed = has_offsets();
    const int64_t tiles = (s.pixels() + tile - 1) / tile;
    parallel_for(parallel, tiles, tile * s.out_channels, [&](int64_t from, int64_t to) {
      std::vector<uint8_t> gathered(in_place ? 0 : static_cast<size_t>(tile * at.depth));
      std::vector<uint8_t> memory(static_cast<size_t>(scratch));
      std::vector<int32_t> sums(summed ? static_cast<size_t>(tile) : 0);
      const auto call = [&](int64_t g, int64_t first, int64_t pixels, const uint8_t* x,
                            int64_t stride) {
        if (summed) add_up(x, stride, pixels, sums.data());
        body(g, first, pixels, x, stride, summed ? sums.data() : nullptr, memory.data());
      };
      for (int64_t t = from; t < to; ++t) {
        const int64_t first = t * tile, left = s.pixels() - first;
        const int64_t pixels = left < tile ? left : tile;
        for (int64_t g = 0; g < s.groups; ++g) {
          if (in_place) {
            call(g, first, pixels, bytes() + first * s.in_channels + g * s.group_channels(),
                 s.in_channels);
            continue;
          }
          for (int64_t p = 0; p < pixels; ++p) gather(first + p, g, gathered.data() + p * at.depth);
          call(g, first, pixels, gathered.data(), at.depth);
        }
      }
    });
  }

  void run_dots(const ParallelFor& parallel) const {
    const int64_t fitting = kTileBytes / at.depth;
    const int64_t tile = is_in_place() || fitting > kTilePixels ? kTilePixels
                         : fitting < 6                          ? 6
                                                                : fitting;
    const bool streamed = is_streamed();
    for_tiles(parallel, tile, 0,
              [&](int64_t g, int64_t first, int64_t pixels, const uint8_t* x, int64_t stride,
                  const int32_t* sums, uint8_t*) {
                kernels().dot_tile(tile_of(g, first, pixels, streamed, x, stride, sums));
              });
  }

  void run_sparse(const SparseWeights& weights, const ParallelFor& parallel) const {
    const bool streamed = is_streamed();
    const int64_t scratch = kSparsePixels * at.depth;
    for_tiles(
        parallel, kSparsePixels, scratch,
        [&](int64_t g, int64_t first, int64_t pixels, const uint8_t* x, int64_t stride,
            const int32_t* sums, uint8_t* memory) {
          kernels().interleave_pixels(x, stride, pixels, at.depth, memory);
          kernels().sparse_tile({tile_of(g, first, pixels, streamed, memory, 0, sums),
                                 weights.groups.data(), weights.starts.data(), weights.parts});
        });
  }

  // Whether to skip, where `count` groups of four weights have one that is not zero.
  bool skips(int64_t count) const {
    if (s.groups > 1 || skipping != kByRule) return s.groups == 1 && skipping == kAlways;
    const int64_t all = s.out_channels * at.depth / kPack;
    return at.depth >= kSkippingDepth &&
           static_cast<double>(count) <= kSkippingShare * static_cast<double>(all);
  }
};

}  // namespace

void set_skipping(Skipping when) { skipping = when; }

int64_t quant_conv2d_workspace(const ConvShape& shape) { return PanelWorkspace(shape).bytes; }

namespace {

int convolve(const Convolution& run, const ParallelFor& parallel) {
  const QuantConv& conv = run.c;
  if (conv.shape.is_depthwise()) {
    run_depthwise(run, parallel);
    return kOk;
  }
  if (!run.reads_codes()) run.unpack(parallel);
  const int64_t count = conv.shape.groups == 1 ? count_groups(run) : 0;
  if (run.skips(count)) {
    run.run_sparse(SparseWeights(run, count), parallel);
  } else {
    run.run_dots(parallel);
  }
  return kOk;
}

}  // namespace

int quant_conv2d_cpu(const QuantConv& conv, void* workspace, const ParallelFor& parallel) {
  const Convolution run(conv, workspace);
  const int status = run.pack_weights(parallel);
  return status == kOk ? convolve(run, parallel) : status;
}

int64_t quant_conv2d_weight_bytes(const ConvShape& shape) { return PanelWorkspace(shape).codes; }

int lay_out_weights_cpu(const QuantConv& conv, void* workspace, const ParallelFor& parallel) {
  Convolution(conv, workspace).lay_out(parallel);
  return kOk;
}

int quant_conv2d_laid_out_cpu(const QuantConv& conv, const void* workspace,
                              const ParallelFor& parallel) {
  return convolve(Convolution(conv, const_cast<void*>(workspace)), parallel);
}

}  // namespace micronet
