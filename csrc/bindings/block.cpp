// What follows a convolution in a block, as functions of tensors.

#include "include/block.h"

#include "bindings/images.h"
#include "bindings/operators.h"
#include "bindings/tensors.h"

namespace micronet {
namespace {

Accumulator accumulator_of(const Tensor& acc) {
  const at::ScalarType type = acc.scalar_type();
  TORCH_CHECK(type == at::kShort || type == at::kInt || type == at::kFloat,
              "expected int16, int32 or float32");
  return type == at::kShort ? kInt16 : type == at::kInt ? kInt32 : kValue;
}

// The accumulators acc [N, C, H, W] with scale and shift [C], and a gate [N, C] unless it is empty.
Block block_of(const Tensor& acc, const Tensor& scale, const Tensor& shift, int64_t function,
               const Tensor& gate) {
  check_images(acc);
  const int64_t n = acc.size(0), c = acc.size(1);
  check_state(scale, at::kFloat, c);
  check_state(shift, at::kFloat, c);
  TORCH_CHECK(function >= kIdentity && function <= kSigmoid, "expected a function");
  return {acc.const_data_ptr(),
          accumulator_of(acc),
          n,
          acc.size(2) * acc.size(3),
          c,
          scale.const_data_ptr<float>(),
          shift.const_data_ptr<float>(),
          static_cast<Function>(function),
          floats_or_null(gate, n * c)};
}

BlockGradient block_gradient_of(const Tensor& grad, const Tensor& acc, const Coding& coding,
                                const Tensor& mean_grad) {
  check_images(grad);
  TORCH_CHECK(grad.sizes() == acc.sizes(), "expected a gradient like the accumulators");
  return {grad.const_data_ptr(), check_floats(grad), coding,
          floats_or_null(mean_grad, acc.size(0) * acc.size(1))};
}

Tensor images_like(const Tensor& acc, at::ScalarType dtype) {
  return output(acc.sizes(), acc.strides(), acc.options().dtype(dtype).requires_grad(false));
}

// Sums [2, C], in float64, of partial sums; on_cpu(partial, sums), on_cuda(partial, sums, stream).
template <typename OnCpu, typename OnCuda>
Tensor two_sums_of(const Tensor& acc, const Block& block, const OnCpu& on_cpu,
                   const OnCuda& on_cuda) {
  const auto options = acc.options().dtype(at::kDouble).requires_grad(false);
  const Tensor sums = at::empty({2, block.channels}, options);
  double* out = sums.mutable_data_ptr<double>();
  launch_for(
      acc,
      [&] {
        const Tensor partial = at::empty({block_units(block), 2, block.channels}, options);
        return on_cpu(partial.mutable_data_ptr<double>(), out);
      },
      [&](auto stream) {
        const Tensor partial = at::empty({block_parts_cuda(block), 2, block.channels}, options);
        return on_cuda(partial.mutable_data_ptr<double>(), out, stream);
      });
  return sums;
}

Tensor channel_moments(const Tensor& acc) {
  check_images(acc);
  const auto floats = acc.options().dtype(at::kFloat).requires_grad(false);
  // Sums of accumulators read no affine map.
  const Tensor none = at::empty({acc.size(1)}, floats);
  const Block block = block_of(acc, none, none, kIdentity, at::empty({0}, floats));
  return two_sums_of(
      acc, block,
      [&](double* partial, double* sums) {
        return block_moments_cpu(block, partial, sums, kParallel);
      },
      [&](double* partial, double* sums, auto stream) {
        return block_moments_cuda(block, partial, sums, stream);
      });
}

Tensor block_extremes(const Tensor& acc, const Tensor& scale, const Tensor& shift, int64_t function,
                      const Tensor& gate) {
  const Block block = block_of(acc, scale, shift, function, gate);
  const auto options = scale.options().requires_grad(false);
  const Tensor extremes = at::empty({2}, options);
  float* out = floats_of_output(extremes);
  launch_for(
      acc,
      [&] {
        const Tensor partial = at::empty({2 * block_units(block)}, options);
        return block_extremes_cpu(block, floats_of_output(partial), out, kParallel);
      },
      [&](auto stream) {
        const Tensor workspace = at::empty({kWorkspace}, options);
        return block_extremes_cuda(block, floats_of_output(workspace), out, stream);
      });
  return extremes;
}

Tensor block_codes(const Tensor& acc, const Tensor& scale, const Tensor& shift, int64_t function,
                   const Tensor& gate, const Tensor& range, int64_t levels, int64_t scheme) {
  const Block block = block_of(acc, scale, shift, function, gate);
  check_state(range, at::kFloat, 2);
  const Coding coding = coding_of(range, levels, scheme);
  const Tensor codes = output_flat(acc, code_bytes(acc.numel(), coding.levels), at::kByte);
  uint8_t* out = bytes_of_output(codes);
  launch_for(
      acc, [&] { return block_codes_cpu(block, coding, out, kParallel); },
      [&](auto stream) { return block_codes_cuda(block, coding, out, stream); });
  return codes;
}

Tensor block_values(const Tensor& acc, const Tensor& scale, const Tensor& shift, int64_t function,
                    const Tensor& gate) {
  const Block block = block_of(acc, scale, shift, function, gate);
  const Tensor values = images_like(acc, at::kFloat);
  float* out = floats_of_output(values);
  launch_for(
      acc, [&] { return block_values_cpu(block, out, kParallel); },
      [&](auto stream) { return block_values_cuda(block, out, stream); });
  return values;
}

Tensor block_means(const Tensor& acc, const Tensor& scale, const Tensor& shift, int64_t function) {
  const Block block = block_of(acc, scale, shift, function, at::empty({0}, scale.options()));
  const Tensor means =
      at::empty({block.images, block.channels}, scale.options().requires_grad(false));
  float* out = floats_of_output(means);
  launch_for(
      acc, [&] { return block_means_cpu(block, out, kParallel); },
      [&](auto stream) { return block_means_cuda(block, out, stream); });
  return means;
}

Tensor block_gradient_sums(const Tensor& grad, const Tensor& acc, const Tensor& scale,
                           const Tensor& shift, int64_t function, const Tensor& range,
                           int64_t levels, int64_t scheme, const Tensor& mean_grad) {
  const Block block = block_of(acc, scale, shift, function, at::empty({0}, scale.options()));
  const BlockGradient gradient =
      block_gradient_of(grad, acc, coding_of(range, levels, scheme), mean_grad);
  return two_sums_of(
      acc, block,
      [&](double* partial, double* sums) {
        return block_gradient_sums_cpu(block, gradient, partial, sums, kParallel);
      },
      [&](double* partial, double* sums, auto stream) {
        return block_gradient_sums_cuda(block, gradient, partial, sums, stream);
      });
}

// Sums [2, C], and what they are sums of.
TensorPair block_gradient_kept(const Tensor& grad, const Tensor& acc, const Tensor& scale,
                               const Tensor& shift, int64_t function, const Tensor& range,
                               int64_t levels, int64_t scheme, const Tensor& mean_grad) {
  const Block block = block_of(acc, scale, shift, function, at::empty({0}, scale.options()));
  const BlockGradient gradient =
      block_gradient_of(grad, acc, coding_of(range, levels, scheme), mean_grad);
  TORCH_CHECK(acc.is_cpu(), "there is no kernel for ", acc.device());
  const auto options = acc.options().dtype(at::kDouble).requires_grad(false);
  const Tensor sums = at::empty({2, block.channels}, options), dz = images_like(acc, at::kFloat);
  const Tensor partial = at::empty({block_units(block), 2, block.channels}, options);
  raise_unless_ok(block_gradient_kept_cpu(block, gradient, partial.mutable_data_ptr<double>(),
                                          sums.mutable_data_ptr<double>(), floats_of_output(dz),
                                          kParallel));
  return {sums, dz};
}

// Writes to dz behind autograd's back.
void norm_gradient_(const Tensor& dz, const Tensor& acc, const Tensor& k) {
  check_images(acc);
  check_images(dz);
  const int64_t n = acc.size(0), c = acc.size(1), positions = acc.size(2) * acc.size(3);
  TORCH_CHECK(dz.sizes() == acc.sizes(), "expected a gradient like the accumulators");
  TORCH_CHECK(acc.is_cpu() && dz.is_cpu(), "there is no kernel for ", acc.device());
  check_state(k, at::kFloat, 3 * c);
  const Accumulator type = accumulator_of(acc);
  const Block block{
      acc.const_data_ptr(), type, n, positions, c, nullptr, nullptr, kIdentity, nullptr};
  dz.unsafeGetTensorImpl()->bump_version();
  raise_unless_ok(
      norm_gradient_cpu(block, k.const_data_ptr<float>(), floats_of_output(dz), kParallel));
}

// The gradients to a learned step and its offset by channel.
Tensor block_step_sums(const Tensor& grad, const Tensor& acc, const Tensor& scale,
                       const Tensor& shift, int64_t function, const Tensor& gate,
                       const Tensor& range, int64_t levels, int64_t scheme) {
  const Block block = block_of(acc, scale, shift, function, gate);
  check_state(range, at::kFloat, 2);
  const BlockGradient gradient = block_gradient_of(grad, acc, coding_of(range, levels, scheme),
                                                   at::empty({0}, scale.options()));
  TORCH_CHECK(gradient.coding.scheme == kLearned, "expected a learned step");
  return two_sums_of(
      acc, block,
      [&](double* partial, double* sums) {
        return block_step_sums_cpu(block, gradient, partial, sums, kParallel);
      },
      [&](double* partial, double* sums, auto stream) {
        return block_step_sums_cuda(block, gradient, partial, sums, stream);
      });
}

Tensor block_gradient(const Tensor& grad, const Tensor& acc, const Tensor& scale,
                      const Tensor& shift, int64_t function, const Tensor& range, int64_t levels,
                      int64_t scheme, const Tensor& mean_grad, const Tensor& k,
                      at::ScalarType dtype) {
  const Block block = block_of(acc, scale, shift, function, at::empty({0}, scale.options()));
  const BlockGradient gradient =
      block_gradient_of(grad, acc, coding_of(range, levels, scheme), mean_grad);
  check_state(k, at::kFloat, 3 * block.channels);
  const Tensor out = images_like(acc, dtype);
  const DType type = check_floats(out);
  const float* factors = k.const_data_ptr<float>();
  void* to = out.mutable_data_ptr();
  launch_for(
      acc, [&] { return block_gradient_cpu(block, gradient, factors, to, type, kParallel); },
      [&](auto stream) { return block_gradient_cuda(block, gradient, factors, to, type, stream); });
  return out;
}

TensorPair block_gate_gradient(const Tensor& grad, const Tensor& acc, const Tensor& scale,
                               const Tensor& shift, int64_t function, const Tensor& gate,
                               const Tensor& range, int64_t levels, int64_t scheme) {
  const Block block = block_of(acc, scale, shift, function, gate);
  TORCH_CHECK(block.gate != nullptr, "expected a gate");
  const BlockGradient gradient = block_gradient_of(grad, acc, coding_of(range, levels, scheme),
                                                   at::empty({0}, scale.options()));
  const Tensor grad_a = images_like(acc, at::kFloat), grad_gate = at::empty_like(gate);
  float *to_a = floats_of_output(grad_a), *to_gate = floats_of_output(grad_gate);
  launch_for(
      acc, [&] { return block_gate_gradient_cpu(block, gradient, to_a, to_gate, kParallel); },
      [&](auto stream) {
        return block_gate_gradient_cuda(block, gradient, to_a, to_gate, stream);
      });
  return {grad_a, grad_gate};
}

}  // namespace

void add_block_operators(Operators& operators) {
  ADD_OPERATORS(operators, channel_moments, block_extremes, block_codes, block_values, block_means,
                block_gradient_sums, block_gradient_kept, block_gradient, block_gate_gradient,
                block_step_sums, norm_gradient_);
  for (const char* name : {"block_gradient_kept", "norm_gradient_"}) {
    operators.on_cpu_alone.emplace_back(name);
  }
}

}  // namespace micronet
