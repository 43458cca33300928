// Activations: the moving range, rounding to one range, and codes.

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/rounding.h"
#include "include/core.h"

namespace micronet {
namespace {

// Reads each piece with body(found, first element, number) and writes the extremes of all.
template <typename Body>
void observe(int64_t numel, const ParallelFor& parallel, float* extremes, const Body& body) {
  const Pieces pieces(numel);
  Extremes found[Pieces::kMost];
  pieces.run(parallel, [&](int64_t p, int64_t from, int64_t count) {
    if (count > 0) body(&found[p], from, count);
  });
  Extremes all;
  for (int64_t p = 0; p < pieces.count; ++p) merge(found[p], &all);
  finish(all, extremes);
}

void extremes_of(const void* x, DType type, int64_t numel, const ParallelFor& parallel,
                 float* extremes) {
  observe(numel, parallel, extremes, [&](Extremes* found, int64_t from, int64_t count) {
    kernels().extremes(at(x, type, from), type, count, found);
  });
}

}  // namespace

int move_range_cpu(const float* extremes, float decay, float* ema, float* range, int64_t* step) {
  *step += 1;
  for (int side = 0; side < 2; ++side) {
    ema[side] = move_average(ema[side], extremes[side], decay);
    range[side] = correct_bias(ema[side], decay, *step);
  }
  return kOk;
}

int update_range_cpu(const void* x, DType type, int64_t numel, float decay, float* ema,
                     float* range, int64_t* step, const ParallelFor& parallel) {
  if (numel == 0) return kNoElements;
  float extremes[2];
  extremes_of(x, type, numel, parallel, extremes);
  return move_range_cpu(extremes, decay, ema, range, step);
}

int fake_quant_per_tensor_cpu(const void* x, DType type, int64_t numel, const float* range,
                              int levels, int scheme, void* y, uint8_t* inside,
                              const ParallelFor& parallel) {
  const Rounding r = rounding_for(range, levels, scheme);
  const bool streamed = leaves_cache(y, numel * width_of(type));
  for_blocks(parallel, numel, [&](int64_t from, int64_t count) {
    kernels().fake_quant(at(x, type, from), type, count, r, at(y, type, from), inside + from / 8,
                         nullptr, streamed);
  });
  return kOk;
}

int fake_quant_per_tensor_observed_cpu(const void* x, DType type, int64_t numel, const float* range,
                                       const int64_t* step, int levels, int scheme, void* y,
                                       uint8_t* inside, float* extremes,
                                       const ParallelFor& parallel) {
  if (numel == 0) return kNoElements;
  if (*step <= 0) {
    extremes_of(x, type, numel, parallel, extremes);
    return fake_quant_per_tensor_cpu(x, type, numel, extremes, levels, scheme, y, inside, parallel);
  }
  const Rounding r = rounding_for(range, levels, scheme);
  const bool streamed = leaves_cache(y, numel * width_of(type));
  observe(numel, parallel, extremes, [&](Extremes* found, int64_t from, int64_t count) {
    kernels().fake_quant(at(x, type, from), type, count, r, at(y, type, from), inside + from / 8,
                         found, streamed);
  });
  return kOk;
}

int quantize_per_tensor_cpu(const void* x, DType type, int64_t numel, const float* range,
                            int levels, int scheme, uint8_t* codes, uint8_t* inside,
                            float* extremes, const ParallelFor& parallel) {
  if (numel == 0) return kNoElements;
  const Rounding r = rounding_for(range, levels, scheme);
  const bool halves = are_half_bytes(levels);
  observe(numel, parallel, extremes, [&](Extremes* found, int64_t from, int64_t count) {
    kernels().encode(at(x, type, from), type, count, r, halves, codes + from / (halves ? 2 : 1),
                     inside + from / 8, found);
  });
  return kOk;
}

int dequantize_per_tensor_cpu(const uint8_t* codes, int64_t numel, const float* range, int levels,
                              int scheme, float* y, const ParallelFor& parallel) {
  const Rounding r = rounding_for(range, levels, scheme);
  const bool streamed = leaves_cache(y, numel * 4), halves = are_half_bytes(levels);
  for_blocks(parallel, numel, [&](int64_t from, int64_t count) {
    kernels().decode(codes + from / (halves ? 2 : 1), count, r, halves, y + from, streamed);
  });
  return kOk;
}

}  // namespace micronet
