// Convolution of codes: unpacked to bytes once, then dot products over panels of weights, or rows
// of a depthwise convolution.

#include <cmath>
#include <cstring>
#include <vector>

#include "../conv.h"
#include "kernels.h"
#include "parallel.h"

namespace micronet {
namespace {

constexpr int64_t kPanel = 16;  // output channels side by side
constexpr int64_t kDeep = 4;    // products that a dot product takes at a time
constexpr int64_t kTilePixels = 96;
constexpr int64_t kBand = 16;  // output rows of a depthwise convolution that share their lines
constexpr int64_t kTileBytes = 65536;  // of gathered codes, which are to stay in a near cache

int64_t up_to(int64_t v, int64_t unit) { return (v + unit - 1) / unit * unit; }

// Where everything lies in the workspace; each part starts on a cache line.
struct Workspace {
  int64_t depth, group_channels;  // padded: products of an output, output channels of a group
  int64_t codes, weight_codes, scale, zero_point, weights, correction, ratio, bytes;

  explicit Workspace(const ConvShape& s)
      : depth(up_to(s.depth(), kDeep)), group_channels(up_to(s.out_channels / s.groups, kPanel)) {
    const int64_t padded = s.groups * group_channels;
    int64_t next = 0;
    const auto take = [&](int64_t size) {
      const int64_t at = next;
      next += up_to(size, 64);
      return at;
    };
    // A dot product may read past the last code, which then meets weights of zero.
    codes = take(s.is_depthwise() ? 0 : s.in_numel() + 64);
    weight_codes = take(s.out_channels * s.depth());
    scale = take(4 * s.out_channels);
    zero_point = take(4 * s.out_channels);
    weights = take(s.is_depthwise() ? 2 * (s.out_channels * s.taps() + 64) : padded * depth);
    correction = take(4 * padded);
    ratio = take(4 * padded);
    bytes = next;
  }
};

// Four sums of bytes, without carries from one to the next.
uint32_t add_bytes(uint32_t a, uint32_t b) {
  return ((a & 0x7f7f7f7fu) + (b & 0x7f7f7f7fu)) ^ ((a ^ b) & 0x80808080u);
}

int as_int(float zero_point) {
  return std::isfinite(zero_point) ? static_cast<int>(zero_point) : 0;
}

struct Convolution {
  const QuantConv& c;
  const ConvShape& s;
  Workspace at;
  Quantiser q;
  int zero_point;
  uint8_t* memory;

  Convolution(const QuantConv& conv, void* workspace)
      : c(conv),
        s(conv.shape),
        at(conv.shape),
        q(make_quantiser(conv.range[0], conv.range[1], conv.levels, kAffine)),
        zero_point(as_int(q.zero_point)),
        memory(static_cast<uint8_t*>(workspace)) {}

  uint8_t* codes() const { return memory + at.codes; }
  uint8_t* weight_codes() const { return memory + at.weight_codes; }
  float* scale() const { return reinterpret_cast<float*>(memory + at.scale); }
  float* weight_zero() const { return reinterpret_cast<float*>(memory + at.zero_point); }
  int8_t* panels() const { return reinterpret_cast<int8_t*>(memory + at.weights); }
  int16_t* depthwise() const { return reinterpret_cast<int16_t*>(memory + at.weights); }
  int32_t* correction() const { return reinterpret_cast<int32_t*>(memory + at.correction); }
  float* padded_ratio() const { return reinterpret_cast<float*>(memory + at.ratio); }

  int64_t out_width_bytes() const { return c.kind == kInt16 ? 2 : 4; }
  void* out(int64_t element) const {
    return static_cast<char*>(c.out) + element * out_width_bytes();
  }

  void unpack(const ParallelFor& parallel) const {
    for_blocks(parallel, s.in_numel(), [&](int64_t first, int64_t count) {
      kernels().unpack(c.codes, first, count, codes() + first);
    });
  }

  // The integer image of weight `tap` of channel o: its code and the channel's zero point.
  void ratio_of(int64_t o, float* padded) const {
    c.ratio[o] = 1.0f / (q.scale * scale()[o]);
    *padded = c.ratio[o];
  }

  void lay_out_depthwise(int64_t from, int64_t to) const {
    for (int64_t o = from; o < to; ++o) {
      const uint8_t* w = weight_codes() + o * s.taps();
      const int zero = as_int(weight_zero()[o]);
      for (int64_t t = 0; t < s.taps(); ++t) {
        depthwise()[t * s.out_channels + o] = static_cast<int16_t>(w[t] + zero);
      }
      ratio_of(o, padded_ratio() + o);
    }
  }

  // Panels of sixteen channels side by side, four products of each at a time; a product's place is
  // that of its tap and then of its channel, as the codes lie in memory.
  void lay_out_panels(int64_t from, int64_t to) const {
    const int64_t per_group = s.out_channels / s.groups, in_group = at.group_channels / kPanel;
    std::vector<uint8_t> rows(static_cast<size_t>(kPanel * at.depth));
    for (int64_t p = from; p < to; ++p) {
      const int64_t first = p % in_group * kPanel, left = per_group - first;
      uint32_t zeros[kPanel] = {};
      std::memset(rows.data(), 0, rows.size());
      for (int64_t lane = 0; lane < (left < kPanel ? left : kPanel); ++lane) {
        const int64_t o = p / in_group * per_group + first + lane, column = p * kPanel + lane;
        const int zero = as_int(weight_zero()[o]);
        const int64_t sum = copy_row(o, zero, rows.data() + lane * at.depth);
        correction()[column] = static_cast<int32_t>(zero_point * (sum + zero * s.depth()));
        zeros[lane] = 0x01010101u * static_cast<uint8_t>(zero);
        ratio_of(o, padded_ratio() + column);
      }
      int8_t* panel = panels() + p * kPanel * at.depth;
      for (int64_t k = 0; k < at.depth; k += kDeep) {
        for (int64_t lane = 0; lane < kPanel; ++lane, panel += kDeep) {
          uint32_t four;
          std::memcpy(&four, rows.data() + lane * at.depth + k, kDeep);
          four = add_bytes(four, zeros[lane]);
          std::memcpy(panel, &four, kDeep);
        }
      }
    }
  }

  // The codes of channel o, tap by tap, filled up with the code of zero; returns their sum.
  int64_t copy_row(int64_t o, int zero, uint8_t* row) const {
    const int64_t channels = s.group_channels(), taps = s.taps();
    const uint8_t* w = weight_codes() + o * s.depth();
    for (int64_t t = 0; t < taps; ++t) {
      for (int64_t c = 0; c < channels; ++c) row[t * channels + c] = w[c * taps + t];
    }
    for (int64_t k = s.depth(); k < at.depth; ++k) row[k] = static_cast<uint8_t>(-zero);
    int32_t sum = 0;
    for (int64_t k = 0; k < s.depth(); ++k) sum += w[k];
    return sum;
  }

  int lay_out(const ParallelFor& parallel) const {
    const Weight weight{c.w,       c.mask,          s.out_channels,
                        s.depth(), c.weight_levels, weight_codes(),
                        scale(),   weight_zero()};
    const int status = quantize_per_channel_cpu(weight, c.type, kAffine, parallel);
    if (status != kOk) return status;
    std::memset(memory + at.correction, 0, static_cast<size_t>(at.bytes - at.correction));
    if (s.is_depthwise()) {
      lay_out_depthwise(0, s.out_channels);
    } else {
      parallel_for(parallel, s.groups * at.group_channels / kPanel, kPanel * at.depth,
                   [&](int64_t from, int64_t to) { lay_out_panels(from, to); });
    }
    return kOk;
  }

  // Bands of output rows of one image: each keeps the lines that it needs as padded integers.
  void run_depthwise(const ParallelFor& parallel) const {
    const int64_t bands = (s.out_height + kBand - 1) / kBand;
    const bool narrow = accumulator_bound(s, c.levels, c.weight_levels) <= kMostInt16;
    parallel_for(parallel, s.images * bands, kBand * s.out_width * s.out_channels,
                 [&](int64_t from, int64_t to) {
                   Lines lines(*this);
                   for (int64_t b = from; b < to; ++b) {
                     const int64_t y = b % bands * kBand, left = s.out_height - y;
                     run_band(b / bands, y, y + (left < kBand ? left : kBand), narrow, &lines);
                   }
                 });
  }

  // A ring of input lines, [kernel_height][padded width][channels], as integer images.
  struct Lines {
    int64_t span, width;
    std::vector<int16_t> memory;
    std::vector<const int16_t*> taps;

    explicit Lines(const Convolution& run)
        : span((run.s.kernel_height - 1) * run.s.dilation_y + 1),
          width((run.s.out_width - 1) * run.s.stride_x +
                (run.s.kernel_width - 1) * run.s.dilation_x + 1),
          memory(static_cast<size_t>(span * width * run.s.in_channels) + 64),
          taps(static_cast<size_t>(run.s.kernel_height)) {}

    int16_t* line(int64_t y, int64_t channels) {
      return memory.data() + (y % span + span) % span * width * channels;
    }
  };

  void run_band(int64_t image, int64_t from, int64_t to, bool narrow, Lines* lines) const {
    int64_t ready = from * s.stride_y - s.top;
    for (int64_t y = from; y < to; ++y) {
      const int64_t first = y * s.stride_y - s.top;
      if (ready < first) ready = first;
      for (; ready < first + lines->span; ++ready) {
        fill_line(image, ready, lines->width, lines->line(ready, s.in_channels));
      }
      for (int64_t ky = 0; ky < s.kernel_height; ++ky) {
        lines->taps[static_cast<size_t>(ky)] =
            lines->line(first + ky * s.dilation_y, s.in_channels);
      }
      const int64_t row = (image * s.out_height + y) * s.out_width * s.out_channels;
      kernels().depthwise_row({lines->taps.data(), s.kernel_height, s.kernel_width, s.out_channels,
                               s.stride_x, s.dilation_x, depthwise(), padded_ratio(), narrow,
                               c.kind, out(row), s.out_width});
    }
  }

  // The integers of a line from column -left on, 0 where there is no image.
  void fill_line(int64_t image, int64_t y, int64_t width, int16_t* line) const {
    const int64_t channels = s.in_channels, inside = y >= 0 && y < s.height ? s.width : 0;
    const int64_t after = s.left + inside, kept = after < width ? inside : width - s.left;
    const auto clear = [&](int64_t from, int64_t to) {
      if (from < to)
        std::memset(line + from * channels, 0, static_cast<size_t>((to - from) * channels) * 2);
    };
    clear(0, s.left < width ? s.left : width);
    if (kept > 0) {
      kernels().unpack_whole(c.codes, (image * s.height + y) * s.width * channels, kept * channels,
                             zero_point, line + s.left * channels);
    }
    clear(after, width);
  }

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
    run.run_depthwise(parallel);
  } else {
    run.unpack(parallel);
    run.run_dots(parallel);
  }
  return kOk;
}

}  // namespace micronet
