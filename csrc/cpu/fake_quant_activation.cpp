// Activations: the moving range, rounding to one range, and its gradient.

#include "../core.h"
#include "extremes.h"
#include "pack.h"
#include "parallel.h"

namespace micronet {
namespace {

// Pieces of x that are reduced apart; their number never depends on the threads.
constexpr int64_t kMaxPieces = 64;

// One block of at most kBlock elements. The flags go through a byte each, in cache.
void quantise_block(const float* __restrict x, int64_t count, const Quantiser& shared,
                    float* __restrict y, uint8_t* __restrict inside) {
  const Quantiser q = shared;
  uint8_t flags[kBlock];
  for (int64_t i = 0; i < count; ++i) {
    y[i] = dequantise(quantise(x[i], q), q);
    flags[i] = static_cast<uint8_t>((x[i] >= q.lo) & (x[i] <= q.hi));
  }
  pack_flags(flags, count, inside);
}

}  // namespace

int update_range_cpu(const float* x, int64_t numel, float decay, float* ema, float* range,
                     int64_t* step, const ParallelFor& parallel) {
  if (numel == 0) return kNoElements;
  const int64_t wanted = (numel + kGrainElements - 1) / kGrainElements;
  const int64_t pieces = wanted < kMaxPieces ? wanted : kMaxPieces;
  const int64_t length = (numel + pieces - 1) / pieces;
  Extremes found[kMaxPieces];
  parallel_for(parallel, pieces, length, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t from = p * length, to = from + length < numel ? from + length : numel;
      if (from < to) found[p] = extremes_of(x + from, to - from);
    }
  });
  Extremes all;
  for (int64_t p = 0; p < pieces; ++p) all.add(found[p]);
  all.finish();
  *step += 1;
  const float extremes[2] = {all.least, all.most};
  for (int side = 0; side < 2; ++side) {
    ema[side] = move_average(ema[side], extremes[side], decay);
    range[side] = correct_bias(ema[side], decay, *step);
  }
  return kOk;
}

int fake_quant_per_tensor_cpu(const float* x, int64_t numel, const float* range, int levels,
                              int scheme, float* y, uint8_t* inside, const ParallelFor& parallel) {
  const Quantiser q = make_quantiser(range[0], range[1], levels, scheme);
  parallel_for(parallel, blocks_for(numel), kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t at = b * kBlock;
      quantise_block(x + at, block_size(b, numel), q, y + at, inside + at / 8);
    }
  });
  return kOk;
}

}  // namespace micronet
