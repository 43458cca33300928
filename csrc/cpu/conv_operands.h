// The operands of a convolution of codes as its loops read them: codes a byte each, weights in
// panels or by tap, all in one workspace.
#ifndef MICRONET_CPU_CONV_OPERANDS_H_
#define MICRONET_CPU_CONV_OPERANDS_H_

#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "include/conv_workspace.h"

namespace micronet {
namespace {

constexpr int64_t kPanel = 16;  // output channels side by side
constexpr int64_t kPack = 4;    // products that a dot product takes at a time
constexpr int64_t kLine = 32;   // channels of a depthwise convolution side by side

// Pairs of neighboring taps of a row; an odd last one is paired with a weight of zero.
inline int64_t tap_pairs(const ConvShape& s) { return (s.kernel_width + 1) / 2; }

// Products in a panel of weights. Tiles take up to 64 at a time (see tile_products), all as many:
// what has no such divisor is filled up to a number that has.
inline int64_t panel_depth(int64_t products) {
  int64_t depth = round_up(products, kPack);
  while (depth > kMostTileProducts && tile_products(depth) < kMostTileProducts / 2) depth += kPack;
  return depth;
}

struct PanelWorkspace : ConvWorkspace {
  int64_t depth, group_channels;  // padded: products of an output, output channels of a group
  int64_t line_channels;          // and channels of a depthwise convolution
  int64_t codes, weights, correction, offset, ratio, groups;

  explicit PanelWorkspace(const ConvShape& s, bool has_weights = true)
      : ConvWorkspace(s, has_weights),
        depth(panel_depth(s.depth())),
        group_channels(round_up(s.out_channels / s.groups, kPanel)),
        line_channels(round_up(s.out_channels, kLine)) {
    const int64_t padded = s.is_depthwise() ? line_channels : s.groups * group_channels;
    // Those of a depthwise convolution may take 16 bits each.
    weights = take(s.is_depthwise() ? s.kernel_height * tap_pairs(s) * 4 * padded : padded * depth);
    correction = take(4 * padded * (s.is_depthwise() ? s.kernel_height : 1));
    offset = take(s.is_depthwise() ? 0 : 4 * padded);
    ratio = take(4 * padded);
    groups = take(8);
    // Last, as only these depend on the images. A dot product may read past the last code, which
    // then meets weights of zero.
    codes = take(s.is_depthwise() ? 0 : s.in_numel() + 64);
  }
};

inline int as_int(float zero_point) {
  return std::isfinite(zero_point) ? static_cast<int>(zero_point) : 0;
}

struct ConvOperands {
  const QuantConv& c;
  const ConvShape& s;
  PanelWorkspace at;
  Quantizer q;
  int zero_point;
  uint8_t* memory;
  WeightCodes weights;  // read where they are laid out

  // Of weights in the workspace.
  ConvOperands(const QuantConv& conv, void* workspace)
      : ConvOperands(conv, PanelWorkspace(conv.shape), workspace) {
    weights = at.codes_in(workspace);
  }
  // Of weights elsewhere.
  ConvOperands(const QuantConv& conv, const WeightCodes& of, void* workspace)
      : ConvOperands(conv, PanelWorkspace(conv.shape, false), workspace) {
    weights = of;
  }

  uint8_t* codes() const { return memory + at.codes; }
  int8_t* panels() const { return reinterpret_cast<int8_t*>(memory + at.weights); }
  // The weights of a depthwise convolution, [kernel_height, tap_pairs, line_channels, 2], of 8 bits
  // or of 16.
  template <typename T>
  T* line_weights() const {
    return reinterpret_cast<T*>(memory + at.weights);
  }
  // What the input's zero point adds to the sums of codes; of a depthwise convolution for each row
  // of taps, [kernel_height, line_channels].
  int32_t* correction() const { return reinterpret_cast<int32_t*>(memory + at.correction); }
  float* padded_ratio() const { return reinterpret_cast<float*>(memory + at.ratio); }
  // What the bytes of a channel's weights lack; see weight_offset.
  int32_t* offset() const { return reinterpret_cast<int32_t*>(memory + at.offset); }
  // How many groups of four weights have one that is not zero, where there is one group of
  // channels.
  int64_t* nonzero_groups() const { return reinterpret_cast<int64_t*>(memory + at.groups); }
  bool has_offsets() const {
    for (int64_t i = 0; i < s.groups * at.group_channels; ++i) {
      if (offset()[i] != 0) return true;
    }
    return false;
  }

  bool has_halves() const { return !c.has_whole_bytes && are_half_bytes(c.coding.levels); }
  int states() const { return weight_states(c.weight_levels, c.weight_scheme); }
  // Whether pairs of products of bytes may leave 16 bits.
  bool is_wide() const {
    const int largest = states() - 1 < 128 ? states() - 1 : 128;
    return 2 * (c.coding.levels - 1) * largest > kMostInt16;
  }
  // Whether the sums of a depthwise convolution fit 16 bits, and its weights 8.
  bool is_narrow() const {
    return c.kind != kInt32 && states() <= 128 &&
           accumulator_bound(s, c.coding.levels, c.weight_levels) <= kMostInt16;
  }

  uint8_t code_of_zero() const { return static_cast<uint8_t>(-zero_point); }
  uint8_t code_at(int64_t i) const {
    return has_halves() ? c.codes[i / 2] >> (i % 2 * 4) & 15 : c.codes[i];
  }

  // Pixels of a depthwise convolution that share a vector, where so few channels divide it.
  int64_t line_pixels() const {
    const bool fits =
        kLine % s.out_channels == 0 && s.stride_x == 1 && s.out_width * s.out_channels % kLine == 0;
    return fits ? kLine / s.out_channels : 1;
  }
  // Channels from one pixel of a line to the next.
  int64_t line_pitch() const { return line_pixels() > 1 ? s.out_channels : at.line_channels; }

  int64_t out_width_bytes() const { return c.kind == kInt16 ? 2 : 4; }
  void* out(int64_t element) const {
    return static_cast<char*>(c.out) + element * out_width_bytes();
  }

  void unpack(const ParallelFor& parallel) const {
    for_blocks(parallel, s.in_numel(), [&](int64_t first, int64_t count) {
      if (has_halves()) {
        kernels().unpack(c.codes, first, count, codes() + first);
      } else {
        std::memcpy(codes() + first, c.codes + first, static_cast<size_t>(count));
      }
    });
  }

  // What turns the integers of channel o into values; `padded` is its place beside the panels.
  void ratio_of(int64_t o, float* padded) const {
    c.ratio[o] = 1.0f / (q.scale * weights.scale[o]);
    *padded = c.ratio[o];
  }

  // Channels of the lines [from, to), in pairs of taps; see DepthwiseRow.
  template <typename T>
  void pack_depthwise(int64_t from, int64_t to) const {
    for (int64_t line = from; line < to; ++line) {
      const int64_t first = line * kLine, left = s.out_channels - first;
      pack_line<T>(first, left < kLine ? left : kLine);
    }
  }

  template <typename T>
  void pack_line(int64_t first, int64_t count) const {
    int32_t zeros[kLine];
    for (int64_t i = 0; i < count; ++i) zeros[i] = as_int(weights.zero_point[first + i]);
    for (int64_t t = 0; t < s.taps(); ++t) {
      const int64_t x = t % s.kernel_width, pair = t / s.kernel_width * tap_pairs(s) + x / 2;
      const uint8_t* w = weights.codes + first * s.taps() + t;
      T* out = line_weights<T>() + 2 * (pair * at.line_channels + first) + x % 2;
      int32_t* of_row = correction() + t / s.kernel_width * at.line_channels + first;
      for (int64_t i = 0; i < count; ++i) {
        const int32_t whole = w[i * s.taps()] + zeros[i];
        out[2 * i] = static_cast<T>(whole);
        of_row[i] += zero_point * whole;
      }
    }
    for (int64_t i = 0; i < count; ++i) ratio_of(first + i, padded_ratio() + first + i);
  }

  // What holds for one pixel of a line, for those that share its vector.
  template <typename T>
  void repeat_for_pixels() const {
    for (int64_t o = s.out_channels; o < line_pixels() * s.out_channels; ++o) {
      const int64_t of = o % s.out_channels;
      for (int64_t pair = 0; pair < s.kernel_height * tap_pairs(s); ++pair) {
        T* row = line_weights<T>() + 2 * pair * at.line_channels;
        row[2 * o] = row[2 * of], row[2 * o + 1] = row[2 * of + 1];
      }
      for (int64_t ky = 0; ky < s.kernel_height; ++ky) {
        int32_t* of_row = correction() + ky * at.line_channels;
        of_row[o] = of_row[of];
      }
      padded_ratio()[o] = padded_ratio()[of];
    }
  }

  // Panels of sixteen channels side by side, four products of each at a time; a product's place is
  // that of its tap and then of its channel, as the codes lie in memory.
  void pack_panels(int64_t from, int64_t to) const {
    const int64_t per_group = s.out_channels / s.groups, in_group = at.group_channels / kPanel;
    std::vector<uint8_t> rows(static_cast<size_t>(kPanel * at.depth));
    for (int64_t p = from; p < to; ++p) {
      const int64_t first = p % in_group * kPanel, left = per_group - first;
      std::memset(rows.data(), 0, rows.size());
      for (int64_t lane = 0; lane < (left < kPanel ? left : kPanel); ++lane) {
        const int64_t o = p / in_group * per_group + first + lane, column = p * kPanel + lane;
        const int whole_zero = as_int(weights.zero_point[o]);
        offset()[column] = weight_offset(whole_zero, states());
        const int zero = whole_zero - offset()[column];
        const int64_t sum = copy_row(o, zero, rows.data() + lane * at.depth);
        correction()[column] = static_cast<int32_t>(zero_point * (sum + zero * s.depth()));
        ratio_of(o, padded_ratio() + column);
      }
      int8_t* panel = panels() + p * kPanel * at.depth;
      for (int64_t k = 0; k < at.depth; k += kPack) {
        for (int64_t lane = 0; lane < kPanel; ++lane, panel += kPack) {
          std::memcpy(panel, rows.data() + lane * at.depth + k, kPack);
        }
      }
    }
  }

  // The integers of channel o as bytes, tap by tap; returns the sum of its codes.
  int64_t copy_row(int64_t o, int zero, uint8_t* row) const {
    const int64_t channels = s.group_channels(), taps = s.taps(), depth = s.depth();
    const uint8_t* w = weights.codes + o * depth;
    const uint8_t added = static_cast<uint8_t>(zero);
    if (taps == 1) {
      for (int64_t k = 0; k < depth; ++k) row[k] = static_cast<uint8_t>(w[k] + added);
    } else {
      for (int64_t t = 0; t < taps; ++t) {
        for (int64_t c = 0; c < channels; ++c, ++row) {
          *row = static_cast<uint8_t>(w[c * taps + t] + added);
        }
      }
    }
    int32_t sum = 0;
    for (int64_t k = 0; k < depth; ++k) sum += w[k];
    return sum;
  }

  template <typename T>
  void pack_lines(const ParallelFor& parallel) const {
    parallel_for(parallel, at.line_channels / kLine, kLine * s.taps(),
                 [&](int64_t from, int64_t to) { pack_depthwise<T>(from, to); });
    repeat_for_pixels<T>();
  }

  int quantize_weights(const ParallelFor& parallel) const {
    return quantize_per_channel_cpu(at.weight_of(c, memory), c.type, c.weight_scheme, parallel);
  }

  // From the codes of weights.
  void lay_out(const ParallelFor& parallel) const {
    const int64_t first = s.is_depthwise() ? at.weights : at.correction;
    std::memset(memory + first, 0, static_cast<size_t>(at.codes - first));
    if (s.is_depthwise()) {
      is_narrow() ? pack_lines<int8_t>(parallel) : pack_lines<int16_t>(parallel);
    } else {
      parallel_for(parallel, s.groups * at.group_channels / kPanel, kPanel * at.depth,
                   [&](int64_t from, int64_t to) { pack_panels(from, to); });
    }
  }

 private:
  ConvOperands(const QuantConv& conv, const PanelWorkspace& places, void* workspace)
      : c(conv),
        s(conv.shape),
        at(places),
        q(conv.coding.quantizer()),
        zero_point(as_int(q.zero_point)),
        memory(static_cast<uint8_t*>(workspace)),
        weights{} {}
};

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_CONV_OPERANDS_H_
