// Convolution of codes as dot products over panels of weights, or over those that are not zero.

#include <algorithm>
#include <atomic>

#include "cpu/code_rows.h"
#include "cpu/conv_operands.h"
#include "cpu/depthwise_blocks.h"
#include "cpu/sparse.h"

namespace micronet {
namespace {

constexpr int64_t kTilePixels = 96, kLeastPixels = 16;
constexpr int64_t kTileChannels = 64;  // of sums that a reader finds in the nearest cache
constexpr int64_t kTileBytes = 65536;  // of gathered codes, which are to stay in a near cache

// The rule: of the groups of four weights no more than the instruction set's share has one that is
// not zero, and sums are long enough to make up for bringing the codes into order.
constexpr int64_t kSkippingDepth = 64;
std::atomic<Skipping> skipping{kByRule};

struct Convolution : ConvOperands {
  using ConvOperands::ConvOperands;

  // Bytes that are read where they lie: whole ones, and no dot product reads past the last.
  bool reads_codes() const {
    return c.has_whole_bytes || (!has_halves() && (!is_in_place() || at.depth == s.depth()));
  }
  const uint8_t* bytes() const { return reads_codes() ? c.codes : codes(); }

  // Whether the codes of a pixel lie as a dot product wants them.
  bool is_in_place() const {
    return s.taps() == 1 && s.stride_y == 1 && s.stride_x == 1 && s.top == 0 && s.left == 0 &&
           s.out_height == s.height && s.out_width == s.width;
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
    kernels().sum_codes(x, stride, pixels, s.depth(), sums);
    const int32_t of_zeros = static_cast<int32_t>(zero_point * s.depth());
    for (int64_t p = 0; p < pixels; ++p) sums[p] += of_zeros;
  }

  // Calls body(group, first pixel, pixels, codes, stride, sums of integers or null, memory) for
  // tiles of `tile` pixels, with `scratch` bytes of memory. Tiles whose order counts keep to an
  // image.
  template <typename Body>
  void for_tiles(const ParallelFor& parallel, int64_t tile, int64_t scratch,
                 const Body& body) const {
    const bool in_place = is_in_place(), summed = has_offsets();
    const bool by_image = c.reader != nullptr && c.reader->in_order;
    const int64_t run = by_image ? s.out_height * s.out_width : s.pixels();
    const int64_t unit = by_image ? run : tile, units = (s.pixels() + unit - 1) / unit;
    parallel_for(parallel, units, unit * s.out_channels, [&](int64_t from, int64_t to) {
      std::vector<uint8_t> gathered(in_place ? 0 : static_cast<size_t>(tile * at.depth));
      CodeRows rows(s, bytes(), code_of_zero());
      std::vector<uint8_t> memory(static_cast<size_t>(scratch));
      std::vector<int32_t> sums(summed ? static_cast<size_t>(tile) : 0);
      const auto call = [&](int64_t g, int64_t first, int64_t pixels, const uint8_t* x,
                            int64_t stride) {
        if (summed) add_up(x, stride, pixels, sums.data());
        body(g, first, pixels, x, stride, summed ? sums.data() : nullptr, memory.data());
      };
      const int64_t end = std::min(to * unit, s.pixels());
      for (int64_t first = from * unit, pixels; first < end; first += pixels) {
        pixels = std::min({tile, end - first, run - first % run});
        for (int64_t g = 0; g < s.groups; ++g) {
          if (in_place) {
            call(g, first, pixels, bytes() + first * s.in_channels + g * s.group_channels(),
                 s.in_channels);
            continue;
          }
          rows.gather(first, pixels, g, gathered.data(), at.depth);
          call(g, first, pixels, gathered.data(), at.depth);
        }
      }
    });
  }

  // Pixels of a tile of dot products.
  int64_t dot_pixels() const {
    const int64_t fitting = kTileBytes / at.depth;
    return is_in_place() ? kTilePixels : std::clamp(fitting, kLeastPixels, kTilePixels);
  }

  void run_dots(const ParallelFor& parallel) const {
    const bool streamed = is_streamed();
    for_tiles(parallel, dot_pixels(), 0,
              [&](int64_t g, int64_t first, int64_t pixels, const uint8_t* x, int64_t stride,
                  const int32_t* sums, uint8_t*) {
                kernels().dot_tile(tile_of(g, first, pixels, streamed, x, stride, sums));
              });
  }

  // The sums of a tile, a few channels at a time.
  void read_dots(const ParallelFor& parallel) const {
    const int64_t tile = dot_pixels();
    for_tiles(parallel, tile, 4 * tile * kTileChannels,
              [&](int64_t g, int64_t first, int64_t pixels, const uint8_t* x, int64_t stride,
                  const int32_t* sums, uint8_t* memory) {
                const ConvTile whole = tile_of(g, first, pixels, false, x, stride, sums);
                for (int64_t c = 0; c < whole.out_channels; c += kTileChannels) {
                  ConvTile part = whole;
                  part.panels += c * part.depth;
                  part.correction += c;
                  if (part.offset != nullptr) part.offset += c;
                  part.kind = kInt32;
                  part.out = memory;
                  part.out_stride = kTileChannels;
                  part.out_channels = std::min(kTileChannels, whole.out_channels - c);
                  kernels().dot_tile(part);
                  read({memory, kInt32, kTileChannels, first, pixels, g * whole.out_channels + c,
                        part.out_channels});
                }
              });
  }

  void read(const SumsTile& tile) const { c.reader->read(c.reader->context, tile); }

  void run_sparse(const SparseWeights& weights, const ParallelFor& parallel) const {
    const bool streamed = is_streamed();
    // Behind the codes, of a reader the sums.
    const int64_t codes_bytes = kSparsePixels * at.depth;
    const int64_t sums_bytes = c.reader == nullptr ? 0 : 4 * kSparsePixels * s.out_channels;
    for_tiles(parallel, kSparsePixels, codes_bytes + sums_bytes,
              [&](int64_t g, int64_t first, int64_t pixels, const uint8_t* x, int64_t stride,
                  const int32_t* sums, uint8_t* memory) {
                kernels().interleave_pixels(x, stride, pixels, at.depth, memory);
                ConvTile tile = tile_of(g, first, pixels, streamed, memory, 0, sums);
                if (c.reader != nullptr) {
                  tile.kind = kInt32;
                  tile.out = memory + codes_bytes;
                  tile.streamed = false;
                }
                kernels().sparse_tile(
                    {tile, weights.groups.data(), weights.starts.data(), weights.parts});
                if (c.reader == nullptr) return;
                read({tile.out, kInt32, s.out_channels, first, pixels, 0, s.out_channels});
              });
  }

  // Whether to skip, where `count` groups of four weights have one that is not zero.
  bool skips(int64_t count) const {
    if (s.groups > 1 || skipping != kByRule) return s.groups == 1 && skipping == kAlways;
    const int64_t all = s.out_channels * at.depth / kPack;
    return at.depth >= kSkippingDepth &&
           static_cast<double>(count) <= kernels().skipping_share * static_cast<double>(all);
  }
};

}  // namespace

void set_skipping(Skipping when) { skipping = when; }

int64_t quant_conv2d_workspace(const ConvShape& shape) { return PanelWorkspace(shape).bytes; }

namespace {

void lay_out(const Convolution& run, const ParallelFor& parallel) {
  run.lay_out(parallel);
  const bool counts = run.s.groups == 1 && !run.s.is_depthwise();
  *run.nonzero_groups() = counts ? count_groups(run) : 0;
}

int convolve(const Convolution& run, const ParallelFor& parallel) {
  if (run.s.is_depthwise()) {
    // Pixels that share a vector are together in whole lines.
    const bool by_blocks = run.c.reader != nullptr && run.line_pixels() == 1;
    by_blocks ? run_depthwise_blocks(run, parallel) : run_depthwise(run, parallel);
    return kOk;
  }
  if (!run.reads_codes()) run.unpack(parallel);
  const int64_t count = *run.nonzero_groups();
  if (run.skips(count)) {
    run.run_sparse(SparseWeights(run, count), parallel);
  } else if (run.c.reader != nullptr) {
    run.read_dots(parallel);
  } else {
    run.run_dots(parallel);
  }
  return kOk;
}

}  // namespace

int quant_conv2d_cpu(const QuantConv& conv, void* workspace, const ParallelFor& parallel) {
  const Convolution run(conv, workspace);
  const int status = run.quantize_weights(parallel);
  if (status != kOk) return status;
  lay_out(run, parallel);
  return convolve(run, parallel);
}

int64_t quant_conv2d_weight_bytes(const ConvShape& shape) {
  return PanelWorkspace(shape, false).codes;
}

int lay_out_weights_cpu(const QuantConv& conv, const WeightCodes& weights, void* workspace,
                        const ParallelFor& parallel) {
  lay_out(Convolution(conv, weights, workspace), parallel);
  return kOk;
}

int quant_conv2d_laid_out_cpu(const QuantConv& conv, const void* workspace,
                              const ParallelFor& parallel) {
  return convolve(Convolution(conv, WeightCodes{}, const_cast<void*>(workspace)), parallel);
}

}  // namespace micronet
