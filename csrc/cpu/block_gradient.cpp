// The way back through what follows a convolution.

#include <limits>

#include "cpu/block_cut.h"

namespace micronet {
namespace {

GradientRun gradient_run(const BlockGradient& g, int64_t first, const Constants& constants) {
  const float most = std::numeric_limits<float>::infinity();
  GradientRun run{static_cast<const float*>(g.grad) + first, constants.mean_grad.data(), -most,
                  most};
  if (g.range != nullptr) {
    const Quantizer q = make_quantizer(g.range[0], g.range[1], 2, kAffine);
    run.lo = q.lo;
    run.hi = q.hi;
  }
  return run;
}

}  // namespace

int block_gradient_sums_cpu(const Block& block, const BlockGradient& gradient, double* partial,
                            double* sums, const ParallelFor& parallel) {
  return two_sums<float>(
      block, gradient.mean_grad, partial, sums, parallel,
      [&](Constants& constants, int64_t first, int64_t count, float* one, float* other) {
        kernels().block_gradient_sums(constants.run(first, count),
                                      gradient_run(gradient, first, constants), one, other);
      });
}

int block_gradient_cpu(const Block& block, const BlockGradient& gradient, const float* k,
                       float* out, const ParallelFor& parallel) {
  const Cut cut(block);
  const Constants whole(cut);
  const std::vector<float> k0 = whole.repeated(k), k1 = whole.repeated(k + block.channels),
                           k2 = whole.repeated(k + 2 * block.channels);
  const float* const all[] = {k0.data(), k1.data(), k2.data()};
  return each_run(block, gradient.mean_grad, parallel,
                  [&](const Constants& constants, const BlockRun& run, int64_t first) {
                    kernels().block_gradient(run, gradient_run(gradient, first, constants), all,
                                             out + first);
                  });
}

int block_gate_gradient_cpu(const Block& block, const BlockGradient& gradient, float* grad_a,
                            float* grad_gate, const ParallelFor& parallel) {
  return sums_by_image(
      block, grad_gate, parallel,
      [&](const Constants& constants, const BlockRun& run, int64_t first, float* sums) {
        kernels().block_gate_gradient(run, gradient_run(gradient, first, constants), grad_a + first,
                                      sums);
      });
}

}  // namespace micronet
