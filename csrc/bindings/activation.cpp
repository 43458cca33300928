// Activations and learned steps as functions of tensors.

#include "bindings/operators.h"
#include "bindings/tensors.h"

namespace micronet {
namespace {

// The moving range of a quantizer, about to be written behind autograd's back: it has to know that
// older views are stale.
struct MovingRange {
  float *ema, *range;
  int64_t* step;

  MovingRange(const Tensor& averages, const Tensor& corrected, const Tensor& count) {
    check_state(averages, at::kFloat, 2);
    check_state(corrected, at::kFloat, 2);
    check_state(count, at::kLong, 1);
    for (const Tensor* state : {&averages, &corrected, &count}) {
      state->unsafeGetTensorImpl()->bump_version();
    }
    ema = floats_of_output(averages);
    range = floats_of_output(corrected);
    step = count.mutable_data_ptr<int64_t>();
  }
};

Tensor workspace_for(const Tensor& x) {
  return at::empty({kWorkspace}, x.options().dtype(at::kFloat).requires_grad(false));
}

void update_range(const Tensor& x, const Tensor& ema, const Tensor& range, const Tensor& step,
                  double decay) {
  const DType type = check_floats(x);
  const MovingRange m(ema, range, step);
  const void* in = x.const_data_ptr();
  const float d = static_cast<float>(decay);
  launch_for(
      x,
      [&] { return update_range_cpu(in, type, x.numel(), d, m.ema, m.range, m.step, kParallel); },
      [&](auto stream) {
        const Tensor workspace = workspace_for(x);
        return update_range_cuda(in, type, x.numel(), d, m.ema, m.range, m.step,
                                 floats_of_output(workspace), stream);
      });
}

void move_range(const Tensor& extremes, const Tensor& ema, const Tensor& range, const Tensor& step,
                double decay) {
  check_state(extremes, at::kFloat, 2);
  const MovingRange m(ema, range, step);
  const float* ends = extremes.const_data_ptr<float>();
  const float d = static_cast<float>(decay);
  launch_for(
      extremes, [&] { return move_range_cpu(ends, d, m.ema, m.range, m.step); },
      [&](auto stream) { return move_range_cuda(ends, d, m.ema, m.range, m.step, stream); });
}

TensorPair fake_quant_per_tensor(const Tensor& x, const Tensor& range, int64_t levels,
                                 int64_t scheme) {
  const DType type = check_floats(x);
  check_state(range, at::kFloat, 2);
  const Tensor y = output_like(x), inside = output_bits(x);
  const void* in = x.const_data_ptr();
  const float* ends = range.const_data_ptr<float>();
  void* out = y.mutable_data_ptr();
  uint8_t* bits = bytes_of_output(inside);
  const int l = static_cast<int>(levels), s = static_cast<int>(scheme);
  launch_for(
      x,
      [&] {
        return fake_quant_per_tensor_cpu(in, type, x.numel(), ends, l, s, out, bits, kParallel);
      },
      [&](auto stream) {
        return fake_quant_per_tensor_cuda(in, type, x.numel(), ends, l, s, out, bits, stream);
      });
  return {y, inside};
}

TensorTriple fake_quant_per_tensor_observed(const Tensor& x, const Tensor& range,
                                            const Tensor& step, int64_t levels, int64_t scheme) {
  const DType type = check_floats(x);
  check_state(range, at::kFloat, 2);
  check_state(step, at::kLong, 1);
  const Tensor y = output_like(x), inside = output_bits(x), extremes = at::empty_like(range);
  const void* in = x.const_data_ptr();
  const float* ends = range.const_data_ptr<float>();
  const int64_t* count = step.const_data_ptr<int64_t>();
  void* out = y.mutable_data_ptr();
  uint8_t* bits = bytes_of_output(inside);
  float* found = floats_of_output(extremes);
  const int l = static_cast<int>(levels), s = static_cast<int>(scheme);
  launch_for(
      x,
      [&] {
        return fake_quant_per_tensor_observed_cpu(in, type, x.numel(), ends, count, l, s, out, bits,
                                                  found, kParallel);
      },
      [&](auto stream) {
        const Tensor workspace = workspace_for(x);
        return fake_quant_per_tensor_observed_cuda(in, type, x.numel(), ends, count, l, s, out,
                                                   bits, found, floats_of_output(workspace),
                                                   stream);
      });
  return {y, inside, extremes};
}

TensorTriple quantize_per_tensor(const Tensor& x, const Tensor& range, int64_t levels,
                                 int64_t scheme) {
  const DType type = check_floats(x);
  check_state(range, at::kFloat, 2);
  const Coding coding = coding_of(range, levels, scheme);
  const Tensor codes = output_flat(x, code_bytes(x.numel(), coding.levels), at::kByte);
  const Tensor inside = output_bits(x), extremes = at::empty_like(range);
  const void* in = x.const_data_ptr();
  const float* ends = coding.range;
  uint8_t *out = bytes_of_output(codes), *bits = bytes_of_output(inside);
  float* found = floats_of_output(extremes);
  const int l = coding.levels, s = coding.scheme;
  launch_for(
      x,
      [&] {
        return quantize_per_tensor_cpu(in, type, x.numel(), ends, l, s, out, bits, found,
                                       kParallel);
      },
      [&](auto stream) {
        const Tensor workspace = workspace_for(x);
        return quantize_per_tensor_cuda(in, type, x.numel(), ends, l, s, out, bits, found,
                                        floats_of_output(workspace), stream);
      });
  return {codes, inside, extremes};
}

Tensor dequantize_per_tensor(const Tensor& codes, const Tensor& range, int64_t numel,
                             int64_t levels, int64_t scheme, at::ScalarType dtype) {
  check_state(range, at::kFloat, 2);
  const Coding coding = coding_of(range, levels, scheme);
  check_bytes(codes, code_bytes(numel, coding.levels));
  const Tensor y = output_flat(codes, numel, codes.is_cpu() ? at::kFloat : dtype);
  const DType type = check_floats(y);
  const uint8_t* in = bytes_of(codes);
  const float* ends = coding.range;
  void* out = y.mutable_data_ptr();
  const int l = coding.levels, s = coding.scheme;
  launch_for(
      codes,
      [&] {
        return dequantize_per_tensor_cpu(in, numel, ends, l, s, static_cast<float*>(out),
                                         kParallel);
      },
      [&](auto stream) {
        return dequantize_per_tensor_cuda(in, numel, ends, l, s, out, type, stream);
      });
  return y.to(dtype);
}

Tensor select_by_bits(const Tensor& values, const Tensor& bits) {
  const DType type = check_floats(values);
  check_bytes(bits, bytes_for(values.numel()));
  const Tensor out = output_like(values);
  const void* in = values.const_data_ptr();
  const uint8_t* b = bytes_of(bits);
  void* o = out.mutable_data_ptr();
  launch_for(
      values, [&] { return select_by_bits_cpu(in, type, b, values.numel(), o, kParallel); },
      [&](auto stream) { return select_by_bits_cuda(in, type, b, values.numel(), o, stream); });
  return out;
}

// A learned step for all of x, or one for each of its channels; an empty mask keeps all.
LearnedStep learned_step_of(const Tensor& x, const Tensor& mask, const Tensor& step,
                            const Tensor& zero_point, int64_t levels) {
  const int64_t channels = step.numel();
  check_state(step, at::kFloat, channels);
  check_state(zero_point, at::kFloat, channels);
  TORCH_CHECK(channels > 0 && x.numel() % channels == 0, "expected a step for each channel");
  if (mask.numel() > 0) check_bytes(mask, bytes_for(x.numel()));
  return {x.const_data_ptr(),
          mask.numel() > 0 ? bytes_of(mask) : nullptr,
          channels,
          x.numel() / channels,
          step.const_data_ptr<float>(),
          zero_point.const_data_ptr<float>(),
          static_cast<int>(levels)};
}

Tensor fake_quant_learned_step(const Tensor& x, const Tensor& mask, const Tensor& step,
                               const Tensor& zero_point, int64_t levels, double) {
  const DType type = check_floats(x);
  const LearnedStep s = learned_step_of(x, mask, step, zero_point, levels);
  const Tensor y = output_like(x);
  void* out = y.mutable_data_ptr();
  launch_for(
      x, [&] { return fake_quant_learned_step_cpu(s, type, out, kParallel); },
      [&](auto stream) { return fake_quant_learned_step_cuda(s, type, out, stream); });
  return y;
}

TensorPair fake_quant_learned_step_backward(const Tensor& grad, const Tensor& x, const Tensor& mask,
                                            const Tensor& step, const Tensor& zero_point,
                                            int64_t levels, double gradient_scale) {
  const DType type = check_floats(x);
  TORCH_CHECK(grad.scalar_type() == x.scalar_type() && grad.strides() == x.strides() &&
                  grad.sizes() == x.sizes(),
              "expected a gradient laid out as x is");
  const LearnedStep s = learned_step_of(x, mask, step, zero_point, levels);
  const Tensor grad_x = output_like(x), grad_step = at::empty_like(step);
  const Tensor workspace =
      at::empty({s.channels * sum_blocks(s.per_channel) * 2}, step.options().requires_grad(false));
  const void* in = grad.const_data_ptr();
  void* out = grad_x.mutable_data_ptr();
  float *sums = floats_of_output(grad_step), *partial = floats_of_output(workspace);
  const float scale = static_cast<float>(gradient_scale);
  launch_for(
      x,
      [&] {
        return fake_quant_learned_step_backward_cpu(s, type, in, scale, out, sums, partial,
                                                    kParallel);
      },
      [&](auto stream) {
        return fake_quant_learned_step_backward_cuda(s, type, in, scale, out, sums, partial,
                                                     stream);
      });
  return {grad_x, grad_step};
}

}  // namespace

void add_activation_operators(Operators& operators) {
  ADD_OPERATORS(operators, fake_quant_per_tensor, fake_quant_per_tensor_observed,
                quantize_per_tensor, dequantize_per_tensor, fake_quant_learned_step,
                fake_quant_learned_step_backward);
  operators.add("update_range_", update_range);
  operators.add("move_range_", move_range);
  operators.add("fake_quant_per_tensor_backward", select_by_bits);
  operators.add("mask_gradient", select_by_bits);
}

}  // namespace micronet
