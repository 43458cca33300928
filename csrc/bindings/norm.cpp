// Batch normalization of a convolution's sums, as functions of tensors.

#include "include/norm.h"

#include <optional>

#include "bindings/operators.h"
#include "bindings/tensors.h"

namespace micronet {
namespace {

using Optional = std::optional<Tensor>;

const float* given_or_null(const Optional& x, int64_t channels) {
  if (!x) return nullptr;
  check_state(*x, at::kFloat, channels);
  return x->const_data_ptr<float>();
}

const double* doubles_of(const Tensor& x, int64_t numel) {
  check_state(x, at::kDouble, numel);
  return x.const_data_ptr<double>();
}

// Running statistics, about to be written behind autograd's back.
float* written_or_null(const Optional& x, int64_t channels) {
  if (!x) return nullptr;
  check_state(*x, at::kFloat, channels);
  x->unsafeGetTensorImpl()->bump_version();
  return floats_of_output(*x);
}

Norm norm_of(const Tensor& dequant_scale, const Optional& weight, const Optional& bias,
             double eps) {
  const int64_t channels = dequant_scale.numel();
  check_state(dequant_scale, at::kFloat, channels);
  return {channels, dequant_scale.const_data_ptr<float>(), given_or_null(weight, channels),
          given_or_null(bias, channels), eps};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> norm_fold_(const Tensor& sums, int64_t count,
                                                      const Tensor& dequant_scale,
                                                      const Optional& weight, const Optional& bias,
                                                      const Optional& running_mean,
                                                      const Optional& running_var, double momentum,
                                                      double eps) {
  const Norm norm = norm_of(dequant_scale, weight, bias, eps);
  const double* found = doubles_of(sums, 2 * norm.channels);
  const RunningStatistics running{written_or_null(running_mean, norm.channels),
                                  written_or_null(running_var, norm.channels),
                                  static_cast<float>(momentum)};
  const Tensor mean = output_flat(sums, norm.channels, at::kDouble);
  const Tensor variance = output_flat(sums, norm.channels, at::kDouble);
  const Tensor scale = output_flat(sums, norm.channels, at::kFloat);
  const Tensor shift = output_flat(sums, norm.channels, at::kFloat);
  const NormFold out{mean.mutable_data_ptr<double>(), variance.mutable_data_ptr<double>(),
                     floats_of_output(scale), floats_of_output(shift)};
  launch_for(
      sums, [&] { return norm_fold_cpu(norm, found, count, running, out); },
      [&](auto stream) { return norm_fold_cuda(norm, found, count, running, out, stream); });
  return {mean, variance, scale, shift};
}

TensorTriple norm_gradient_map(const Tensor& sums, const Tensor& mean, const Tensor& variance,
                               std::optional<int64_t> count, const Tensor& dequant_scale,
                               const Optional& weight, double eps) {
  const Norm norm = norm_of(dequant_scale, weight, std::nullopt, eps);
  const NormGradient gradient{doubles_of(sums, 2 * norm.channels), doubles_of(mean, norm.channels),
                              doubles_of(variance, norm.channels), count.value_or(0)};
  const Tensor k =
      output({3, norm.channels}, {norm.channels, 1}, dequant_scale.options().requires_grad(false));
  const Tensor grad_weight = output_like(dequant_scale), grad_bias = output_like(dequant_scale);
  const NormGradientMap out{floats_of_output(k), floats_of_output(grad_weight),
                            floats_of_output(grad_bias)};
  launch_for(
      sums, [&] { return norm_gradient_map_cpu(norm, gradient, out); },
      [&](auto stream) { return norm_gradient_map_cuda(norm, gradient, out, stream); });
  return {k, grad_weight, grad_bias};
}

}  // namespace

void add_norm_operators(Operators& operators) {
  ADD_OPERATORS(operators, norm_fold_, norm_gradient_map);
}

}  // namespace micronet
