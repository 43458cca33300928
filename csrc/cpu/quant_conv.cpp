// Convolution of codes as dot products over panels of weights.

#include "conv_operands.h"
#include "depthwise.h"

namespace micronet {
namespace {

constexpr int64_t kTilePixels = 96;
constexpr int64_t kTileBytes = 65536;  // of gathered codes, which are to stay in a near cache

struct Convolution : ConvOperands {
  using ConvOperands::ConvOperands;

  // The codes of a line of an image, null outside it.
  const uint8_t* line_of(int64_t image, int64_t y) const {
    if (y < 0 || y >= s.height) return nullptr;
    return codes() + (image * s.height + y) * s.width * s.in_channels;
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

  void run_tile(int64_t group, int64_t first, int64_t pixels, bool streamed, const uint8_t* x,
                int64_t stride) const {
    const int64_t per_group = s.out_channels / s.groups, column = group * at.group_channels;
    kernels().dot_tile({x, stride, pixels, panels() + column * at.depth, at.depth,
                        correction() + column, padded_ratio() + column, c.kind,
                        out(first * s.out_channels + group * per_group), s.out_channels, per_group,
                        streamed});
  }

  void run_dots(const ParallelFor& parallel) const {
    const bool in_place = is_in_place();
    const int64_t fitting = kTileBytes / at.depth;
    const int64_t tile = in_place || fitting > kTilePixels ? kTilePixels
                         : fitting < 6                     ? 6
                                                           : fitting;
    // Past the caches only in whole lines: what is left of one would be read first.
    const int64_t row = s.out_channels * out_width_bytes();
    const bool streamed = row % 64 == 0 && leaves_cache(c.out, s.pixels() * row);
    const int64_t tiles = (s.pixels() + tile - 1) / tile;
    parallel_for(parallel, tiles, tile * s.out_channels, [&](int64_t from, int64_t to) {
      std::vector<uint8_t> gathered(in_place ? 0 : static_cast<size_t>(tile * at.depth));
      for (int64_t t = from; t < to; ++t) {
        const int64_t first = t * tile, left = s.pixels() - first;
        const int64_t pixels = left < tile ? left : tile;
        for (int64_t g = 0; g < s.groups; ++g) {
          if (in_place) {
            run_tile(g, first, pixels, streamed,
                     codes() + first * s.in_channels + g * s.group_channels(), s.in_channels);
            continue;
          }
          for (int64_t p = 0; p < pixels; ++p) gather(first + p, g, gathered.data() + p * at.depth);
          run_tile(g, first, pixels, streamed, gathered.data(), at.depth);
        }
      }
    });
  }
};

}  // namespace

int64_t quant_conv2d_workspace(const ConvShape& shape) { return Workspace(shape).bytes; }

int quant_conv2d_cpu(const QuantConv& conv, void* workspace, const ParallelFor& parallel) {
  const Convolution run(conv, workspace);
  const int status = run.lay_out(parallel);
  if (status != kOk) return status;
  if (conv.shape.is_depthwise()) {
    run_depthwise(run, parallel);
  } else {
    run.unpack(parallel);
    run.run_dots(parallel);
  }
  return kOk;
}

}  // namespace micronet
