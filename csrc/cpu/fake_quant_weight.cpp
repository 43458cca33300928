// Weights: masked, then rounded to the range of each channel.

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "include/core.h"

namespace micronet {
namespace {

// Weights are shared out in units of about kUnit elements, counted through all of them.
constexpr int64_t kUnit = 4096;

int64_t units_of(int64_t numel) { return (numel + kUnit - 1) / kUnit; }

// Calls body(item, first unit, last unit) for the items whose units lie in [begin, end), the units
// being those of that item; `units` tells how many an item has.
template <typename Item, typename Units, typename Body>
void for_units(const Item* items, int64_t count, const ParallelFor& parallel, const Units& units,
               const Body& body) {
  int64_t all = 0;
  for (int64_t i = 0; i < count; ++i) all += units(items[i]);
  parallel_for(parallel, all, kUnit, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < count && end > 0; ++i) {
      const int64_t mine = units(items[i]);
      if (begin < mine) body(items[i], begin, end < mine ? end : mine);
      begin = begin > mine ? begin - mine : 0;
      end -= mine;
    }
  });
}

// Runs rows(weight, first channel, last channel) over the channels of all weights; a channel
// belongs to the unit that its first element lies in.
template <typename Rows>
int for_channels(const Weight* weights, int64_t count, const ParallelFor& parallel,
                 const Rows& rows) {
  for (int64_t w = 0; w < count; ++w) {
    if (weights[w].per_channel == 0) return kNoElements;
  }
  for_units(
      weights, count, parallel,
      [](const Weight& weight) { return units_of(weight.channels * weight.per_channel); },
      [&](const Weight& weight, int64_t begin, int64_t end) {
        const int64_t n = weight.per_channel, to = (end * kUnit + n - 1) / n;
        rows(weight, (begin * kUnit + n - 1) / n, to < weight.channels ? to : weight.channels);
      });
  return kOk;
}

}  // namespace

int fake_quant_weights_cpu(const Weight* weights, int64_t count, DType type, int scheme,
                           const ParallelFor& parallel) {
  int64_t numel = 0;
  for (int64_t w = 0; w < count; ++w) numel += weights[w].channels * weights[w].per_channel;
  const bool streamed = numel * width_of(type) > kCacheBytes;
  return for_channels(weights, count, parallel, [&](const Weight& weight, int64_t a, int64_t b) {
    kernels().fake_quant_rows(weight, type, scheme, a, b, streamed);
  });
}

int quantize_per_channel_cpu(const Weight& weight, DType type, int scheme,
                             const ParallelFor& parallel) {
  return for_channels(&weight, 1, parallel, [&](const Weight& one, int64_t from, int64_t to) {
    kernels().codes_rows(one, type, scheme, from, to);
  });
}

int mask_gradients_cpu(const Gradient* gradients, int64_t count, DType type,
                       const ParallelFor& parallel) {
  for_units(
      gradients, count, parallel, [](const Gradient& g) { return units_of(g.numel); },
      [&](const Gradient& g, int64_t begin, int64_t end) {
        const int64_t from = begin * kUnit, to = end * kUnit < g.numel ? end * kUnit : g.numel;
        kernels().masked_select(at(g.grad, type, from), type, {g.mask, bytes_for(g.numel), from},
                                to - from, at(g.out, type, from));
      });
  return kOk;
}

}  // namespace micronet
