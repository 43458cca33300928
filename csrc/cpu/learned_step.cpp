// Rounding to learned steps, and the gradient to the steps in a fixed order of summation.

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "include/core.h"

namespace micronet {
namespace {

LearnedRow row_of(const LearnedStep& s, DType type, int64_t channel, int64_t from, int64_t count,
                  const void* out) {
  const int64_t first = channel * s.per_channel + from;
  const Quantizer q = learned_quantizer(s.step[channel], s.zero_point[channel], s.levels);
  const int64_t numel = s.channels * s.per_channel;
  const bool aligned = reinterpret_cast<uintptr_t>(out) % 64 == 0;
  return {q,
          at(s.x, type, first),
          {s.mask, bytes_for(numel), first},
          count,
          aligned && numel * width_of(type) > kCacheBytes};
}

// Calls body(channel, block, first element of the row, number) for every block of every channel.
template <typename Body>
void for_row_blocks(const LearnedStep& s, const ParallelFor& parallel, const Body& body) {
  const int64_t blocks = sum_blocks(s.per_channel), n = s.per_channel;
  const int64_t length = n < kSumBlock ? (n > 0 ? n : 1) : kSumBlock;
  parallel_for(parallel, s.channels * blocks, length, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t block = i % blocks, from = block * kSumBlock;
      body(i / blocks, block, from, n - from < kSumBlock ? n - from : kSumBlock);
    }
  });
}

// The sums of blocks [count], summed again until one is left; overwrites them.
float sum_of_sums(float* sums, int64_t count) {
  while (count > 1) {
    const int64_t blocks = sum_blocks(count);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t from = b * kSumBlock, left = count - from;
      sums[b] = kernels().sum_block(sums + from, left < kSumBlock ? left : kSumBlock);
    }
    count = blocks;
  }
  return sums[0];
}

}  // namespace

int fake_quant_learned_step_cpu(const LearnedStep& s, DType type, void* y,
                                const ParallelFor& parallel) {
  for_row_blocks(s, parallel, [&](int64_t channel, int64_t, int64_t from, int64_t count) {
    void* out = at(y, type, channel * s.per_channel + from);
    kernels().learned_fake_quant(row_of(s, type, channel, from, count, out), type, out);
  });
  return kOk;
}

int fake_quant_learned_step_backward_cpu(const LearnedStep& s, DType type, const void* grad,
                                         float gradient_scale, void* grad_x, float* grad_step,
                                         float* workspace, const ParallelFor& parallel) {
  const int64_t blocks = sum_blocks(s.per_channel);
  for_row_blocks(s, parallel, [&](int64_t channel, int64_t block, int64_t from, int64_t count) {
    const int64_t first = channel * s.per_channel + from;
    void* out = at(grad_x, type, first);
    workspace[channel * blocks + block] = kernels().learned_gradient(
        row_of(s, type, channel, from, count, out), type, at(grad, type, first), out);
  });
  for (int64_t c = 0; c < s.channels; ++c) {
    grad_step[c] = sum_of_sums(workspace + c * blocks, blocks) * gradient_scale;
  }
  return kOk;
}

}  // namespace micronet
