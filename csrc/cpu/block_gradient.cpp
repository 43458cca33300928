// The way back through what follows a convolution.

#include <limits>

#include "cpu/block_cut.h"
#include "cpu/half.h"

namespace micronet {
namespace {

template <typename T>
void widen_run(const void* from, int64_t first, int64_t count, float* to) {
  const T* values = static_cast<const T*>(from) + first;
  for (int64_t i = 0; i < count; ++i) to[i] = widen(values[i]);
}

template <typename T>
void narrow_run(const float* from, int64_t count, void* to, int64_t first) {
  T* values = static_cast<T*>(to) + first;
  for (int64_t i = 0; i < count; ++i) narrow(from[i], values + i);
}

// The floats of a gradient's run, in `room` where they have another type.
const float* floats_of(const BlockGradient& g, int64_t first, int64_t count, float* room) {
  if (g.type == kFloat32) return static_cast<const float*>(g.grad) + first;
  (g.type == kBFloat16 ? widen_run<BFloat16> : widen_run<Float16>)(g.grad, first, count, room);
  return room;
}

GradientRun gradient_run(const BlockGradient& g, int64_t first, int64_t count,
                         Constants& constants) {
  const float most = std::numeric_limits<float>::infinity();
  const float* grad = floats_of(g, first, count, constants.gradient.data());
  const Quantizer everywhere{-most, most, 1.0f, 0.0f, 0.0f, 0.0f, false};
  return {grad, constants.mean_grad.data(),
          g.coding.range == nullptr ? everywhere : g.coding.quantizer()};
}

}  // namespace

int block_gradient_sums_cpu(const Block& block, const BlockGradient& gradient, double* partial,
                            double* sums, const ParallelFor& parallel) {
  return two_sums<float>(
      block, gradient.mean_grad, partial, sums, parallel,
      [&](Constants& constants, int64_t first, int64_t count, float* one, float* other) {
        kernels().block_gradient_sums(constants.run(first, count),
                                      gradient_run(gradient, first, count, constants), one, other);
      });
}

int block_gradient_kept_cpu(const Block& block, const BlockGradient& gradient, double* partial,
                            double* sums, float* dz, const ParallelFor& parallel) {
  return two_sums<float>(
      block, gradient.mean_grad, partial, sums, parallel,
      [&](Constants& constants, int64_t first, int64_t count, float* one, float* other) {
        kernels().block_gradient_kept(constants.run(first, count),
                                      gradient_run(gradient, first, count, constants), one, other,
                                      dz + first);
      });
}

int norm_gradient_cpu(const Block& block, const float* k, float* dz, const ParallelFor& parallel) {
  const Cut cut(block);
  const std::vector<float> k0 = cut.repeated(k), k1 = cut.repeated(k + block.channels),
                           k2 = cut.repeated(k + 2 * block.channels);
  const float* const all[] = {k0.data(), k1.data(), k2.data()};
  cut.parallel(parallel, [&](int64_t from, int64_t to) {
    for (int64_t u = from; u < to; ++u) {
      cut.runs(u, [&](int64_t first, int64_t count) {
        kernels().norm_gradient(cut.at(first), block.type, count, all, dz + first);
      });
    }
  });
  return kOk;
}

int block_step_sums_cpu(const Block& block, const BlockGradient& gradient, double* partial,
                        double* sums, const ParallelFor& parallel) {
  return two_sums<float>(
      block, nullptr, partial, sums, parallel,
      [&](Constants& constants, int64_t first, int64_t count, float* one, float* other) {
        kernels().block_step_sums(constants.run(first, count),
                                  gradient_run(gradient, first, count, constants), one, other);
      });
}

int block_gradient_cpu(const Block& block, const BlockGradient& gradient, const float* k, void* out,
                       DType type, const ParallelFor& parallel) {
  const Cut cut(block);
  const std::vector<float> k0 = cut.repeated(k), k1 = cut.repeated(k + block.channels),
                           k2 = cut.repeated(k + 2 * block.channels);
  const float* const all[] = {k0.data(), k1.data(), k2.data()};
  const auto narrowed = type == kBFloat16 ? narrow_run<BFloat16> : narrow_run<Float16>;
  return each_run(
      block, gradient.mean_grad, parallel,
      [&](Constants& constants, const BlockRun& run, int64_t first) {
        const bool is_wide = type == kFloat32;
        float* to = is_wide ? static_cast<float*>(out) + first : constants.result.data();
        kernels().block_gradient(run, gradient_run(gradient, first, run.count, constants), all, to);
        if (!is_wide) narrowed(to, run.count, out, first);
      });
}

int block_gate_gradient_cpu(const Block& block, const BlockGradient& gradient, float* grad_a,
                            float* grad_gate, const ParallelFor& parallel) {
  return sums_by_image(block, grad_gate, parallel,
                       [&](Constants& constants, const BlockRun& run, int64_t first, float* sums) {
                         kernels().block_gate_gradient(
                             run, gradient_run(gradient, first, run.count, constants),
                             grad_a + first, sums);
                       });
}

}  // namespace micronet
