// A convolution of codes that skips pruned weights: groups of four that are not all zero, listed
// for each output channel.
#ifndef MICRONET_CPU_SPARSE_H_
#define MICRONET_CPU_SPARSE_H_

#include "cpu/conv_operands.h"

namespace micronet {
namespace {

constexpr int64_t kPartDepth = 256;  // of the codes that stay in the nearest cache

struct SparseWeights {
  int64_t parts;
  std::vector<FourWeights> groups;
  std::vector<int64_t> starts;  // [out_channels * parts + 1]

  // From the panels of `o`, which has one group of channels; `count` groups have a weight.
  SparseWeights(const ConvOperands& o, int64_t count)
      : parts((o.at.depth + kPartDepth - 1) / kPartDepth) {
    groups.reserve(static_cast<size_t>(count));
    starts.reserve(static_cast<size_t>(o.s.out_channels * parts + 1));
    starts.push_back(0);
    for (int64_t channel = 0; channel < o.s.out_channels; ++channel) {
      for (int64_t k = 0; k < o.at.depth; k += kPartDepth) {
        append(o, channel, k, k + kPartDepth < o.at.depth ? k + kPartDepth : o.at.depth);
        starts.push_back(static_cast<int64_t>(groups.size()));
      }
    }
  }

  void append(const ConvOperands& o, int64_t channel, int64_t from, int64_t to) {
    const int8_t* panel = o.panels() + channel / kPanel * kPanel * o.at.depth;
    for (int64_t k = from; k < to; k += kPack) {
      FourWeights four;
      std::memcpy(&four.weights, panel + k * kPanel + channel % kPanel * kPack, kPack);
      four.place = static_cast<int32_t>(k * kSparsePixels);
      if (four.weights != 0) groups.push_back(four);
    }
  }
};

// Groups of four weights that are not all zero, of one group of channels.
inline int64_t count_groups(const ConvOperands& o) {
  int64_t count = 0;
  const int8_t* panels = o.panels();
  for (int64_t at = 0; at < o.at.group_channels * o.at.depth; at += kPack) {
    int32_t four;
    std::memcpy(&four, panels + at, kPack);
    count += four != 0;
  }
  return count;
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_SPARSE_H_
