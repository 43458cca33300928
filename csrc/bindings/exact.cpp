// Evaluation in float as functions of tensors.

#include "include/exact.h"

#include "bindings/images.h"
#include "bindings/operators.h"
#include "bindings/tensors.h"
#include "bindings/weight.h"

namespace micronet {
namespace {

Tensor conv2d_deterministic(const Tensor& x, const Tensor& w, const Tensor& bias,
                            const Sizes& stride, const Sizes& padding, const Sizes& dilation,
                            int64_t groups) {
  check_images(x);
  check_state(w, at::kFloat, w.numel());
  TORCH_CHECK(x.scalar_type() == at::kFloat, "expected float32");
  const ConvShape s = conv_shape_of(x.sizes().vec(), w, stride, padding, dilation, groups);
  const Tensor y = channels_last(x, s, at::kFloat);
  const float *in = x.const_data_ptr<float>(), *factors = w.const_data_ptr<float>();
  const float* offset = floats_or_null(bias, s.out_channels);
  launch_for(
      x,
      [&] {
        const Tensor workspace = at::empty({w.numel()}, w.options().requires_grad(false));
        return conv2d_deterministic_cpu(s, in, factors, offset, floats_of_output(workspace),
                                        floats_of_output(y), kParallel);
      },
      [&](auto stream) {
        return conv2d_deterministic_cuda(s, in, factors, offset, floats_of_output(y), stream);
      });
  return y;
}

// The integers of the codes of w, and the ratio that makes values of them.
TensorPair integers_of(const Tensor& w, const Tensor& mask, int64_t levels) {
  const auto [codes, scale, zero] = quantize_per_channel(w, mask, levels, kAffine);
  const Tensor whole = at::where(zero.isfinite(), zero, 0.0);
  return {codes.to(at::kFloat).add_(whole.unsqueeze(1)), at::ones_like(scale).div_(scale)};
}

Tensor linear_deterministic(const Tensor& x, const Tensor& w, const Tensor& mask, int64_t levels,
                            const Tensor& bias) {
  const int64_t rows = x.size(0), depth = x.size(1), outputs = w.size(0);
  check_state(x, at::kFloat, rows * depth);
  check_state(w, at::kFloat, outputs * depth);
  const auto options = w.options().requires_grad(false);
  const auto [factors, ratio] =
      levels != 0 ? integers_of(w, mask, levels) : TensorPair{w, at::ones({outputs}, options)};
  const Tensor offset = bias.numel() > 0 ? bias : at::zeros({outputs}, options);
  check_state(offset, at::kFloat, outputs);
  const Tensor y = at::empty({rows, outputs}, options);
  const float *in = x.const_data_ptr<float>(), *wide = factors.const_data_ptr<float>();
  const float *scale = ratio.const_data_ptr<float>(), *bias_of = offset.const_data_ptr<float>();
  float* out = floats_of_output(y);
  launch_for(
      x,
      [&] {
        return linear_deterministic_cpu(in, wide, scale, bias_of, rows, depth, outputs, out,
                                        kParallel);
      },
      [&](auto stream) {
        return linear_deterministic_cuda(in, wide, scale, bias_of, rows, depth, outputs, out,
                                         stream);
      });
  return y;
}

}  // namespace

void add_exact_operators(Operators& operators) {
  ADD_OPERATORS(operators, conv2d_deterministic, linear_deterministic);
}

}  // namespace micronet
