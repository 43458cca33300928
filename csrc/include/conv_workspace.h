// Where the operands of a convolution of codes lie in a workspace. See conv.h.
#ifndef MICRONET_CONV_WORKSPACE_H_
#define MICRONET_CONV_WORKSPACE_H_

#include <cstdint>

#include "include/conv.h"

namespace micronet {

static inline int64_t round_up(int64_t v, int64_t unit) { return (v + unit - 1) / unit * unit; }

// Offsets of the parts, each on a cache line: first the quantized weights [out_channels, depth]
// with the scale and zero point of each output channel, where they are not elsewhere, then what a
// launcher takes for itself.
struct ConvWorkspace {
  int64_t bytes = 0;
  int64_t weight_codes, scale, zero_point;

  explicit ConvWorkspace(const ConvShape& s, bool has_weights = true)
      : weight_codes(take(has_weights ? s.out_channels * s.depth() : 0)),
        scale(take(has_weights ? 4 * s.out_channels : 0)),
        zero_point(take(has_weights ? 4 * s.out_channels : 0)) {}

  int64_t take(int64_t size) {
    const int64_t at = bytes;
    bytes += round_up(size, 64);
    return at;
  }

  // The weights of a convolution, to be quantized into the workspace at `memory`.
  Weight weight_of(const QuantConv& conv, void* memory) const {
    uint8_t* base = static_cast<uint8_t*>(memory);
    return {conv.w,
            conv.mask,
            conv.shape.out_channels,
            conv.shape.depth(),
            conv.weight_levels,
            base + weight_codes,
            reinterpret_cast<float*>(base + scale),
            reinterpret_cast<float*>(base + zero_point),
            conv.weight_steps};
  }

  // The same weights, once they are.
  WeightCodes codes_in(const void* memory) const {
    const uint8_t* base = static_cast<const uint8_t*>(memory);
    return {base + weight_codes, reinterpret_cast<const float*>(base + scale),
            reinterpret_cast<const float*>(base + zero_point)};
  }
};

}  // namespace micronet

#endif  // MICRONET_CONV_WORKSPACE_H_
