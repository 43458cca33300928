// Weights, their masks and their selection as functions of tensors.

#include "bindings/weight.h"

#include "bindings/operators.h"
#include "bindings/tensors.h"

namespace micronet {
namespace {

// The channels of w and its mask, empty for all, whose values or codes go to w_hat.
Weight weight_of(const Tensor& w, const Tensor& mask, int64_t levels, const Tensor& w_hat) {
  check_floats(w);
  TORCH_CHECK(w.is_contiguous() && w.dim() > 0 && w.numel() > 0, "expected contiguous weights");
  if (mask.numel() > 0) check_bytes(mask, bytes_for(w.numel()));
  return {w.const_data_ptr(),
          mask.numel() > 0 ? bytes_of(mask) : nullptr,
          w.size(0),
          w.numel() / w.size(0),
          static_cast<int>(levels),
          w_hat.mutable_data_ptr(),
          nullptr,
          nullptr,
          nullptr};
}

// Runs launcher(weight, type, stream or null) for one weight with its scales and zero points.
template <typename OnCpu, typename OnCuda>
TensorTriple with_channels(const Tensor& w, const Tensor& mask, int64_t levels, const Tensor& w_hat,
                           const OnCpu& on_cpu, const OnCuda& on_cuda) {
  Weight weight = weight_of(w, mask, levels, w_hat);
  const auto options = w.options().dtype(at::kFloat).requires_grad(false);
  const Tensor scale = at::empty({weight.channels}, options), zero_point = at::empty_like(scale);
  weight.scale = floats_of_output(scale);
  weight.zero_point = floats_of_output(zero_point);
  launch_for(
      w, [&] { return on_cpu(weight); }, [&](auto stream) { return on_cuda(weight, stream); });
  return {w_hat, scale, zero_point};
}

TensorTriple fake_quant_per_channel(const Tensor& w, const Tensor& mask, int64_t levels,
                                    int64_t scheme) {
  const DType type = check_floats(w);
  const int s = static_cast<int>(scheme);
  return with_channels(
      w, mask, levels, output_like(w),
      [&](const Weight& weight) { return fake_quant_weights_cpu(&weight, 1, type, s, kParallel); },
      [&](const Weight& weight, auto stream) {
        return fake_quant_per_channel_cuda(weight, type, s, stream);
      });
}

}  // namespace

TensorTriple quantize_per_channel(const Tensor& w, const Tensor& mask, int64_t levels,
                                  int64_t scheme) {
  const DType type = check_floats(w);
  const int s = static_cast<int>(scheme);
  const bool is_signed = scheme == kDistillerSymmetric;
  const Tensor codes = at::empty(
      w.sizes(), w.options().dtype(is_signed ? at::kChar : at::kByte).requires_grad(false));
  return with_channels(
      w, mask, levels, codes,
      [&](const Weight& weight) { return quantize_per_channel_cpu(weight, type, s, kParallel); },
      [&](const Weight& weight, auto stream) {
        return quantize_per_channel_cuda(weight, type, s, stream);
      });
}

namespace {

// Outputs of one type, on the CPU side by side in one buffer, each from a cache line on. They are
// tensors of their own, which keep the buffer together.
std::vector<Tensor> outputs_like(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> outputs;
  if (!tensors[0].is_cpu()) {
    for (const Tensor& x : tensors) outputs.push_back(output_like(x));
    return outputs;
  }
  const auto lines = [](const Tensor& x) { return (x.nbytes() + 63) / 64 * 64; };
  size_t bytes = 0;
  for (const Tensor& x : tensors) bytes += lines(x);
  const Tensor all = output_flat(tensors[0], static_cast<int64_t>(bytes), at::kByte);
  uint8_t* next = bytes_of_output(all);
  for (const Tensor& x : tensors) {
    outputs.push_back(at::from_blob(
        next, x.sizes(), x.strides(), [all](void*) {}, x.options().requires_grad(false)));
    next += lines(x);
  }
  return outputs;
}

}  // namespace

std::vector<Tensor> fake_quant_weights(const std::vector<Tensor>& weights,
                                       const std::vector<Tensor>& masks,
                                       const std::vector<int64_t>& levels, int64_t scheme) {
  TORCH_CHECK(!weights.empty() && masks.size() == weights.size() && levels.size() == weights.size(),
              "expected as many masks and levels as weights");
  const DType type = check_floats(weights[0]);
  std::vector<Tensor> outputs = outputs_like(weights);
  std::vector<Weight> list;
  for (size_t i = 0; i < weights.size(); ++i) {
    TORCH_CHECK(weights[i].scalar_type() == weights[0].scalar_type(), "expected one dtype");
    list.push_back(weight_of(weights[i], masks[i], levels[i], outputs[i]));
  }
  const int s = static_cast<int>(scheme);
  launch_for(
      weights[0],
      [&] {
        return fake_quant_weights_cpu(list.data(), static_cast<int64_t>(list.size()), type, s,
                                      kParallel);
      },
      [&](auto stream) {
        int status = kOk;
        for (const Weight& weight : list) {
          if (status == kOk) status = fake_quant_per_channel_cuda(weight, type, s, stream);
        }
        return status;
      });
  return outputs;
}

std::vector<Tensor> mask_gradients(const std::vector<Tensor>& grads,
                                   const std::vector<Tensor>& masks) {
  TORCH_CHECK(!grads.empty() && masks.size() == grads.size(), "expected a mask for each gradient");
  const DType type = check_floats(grads[0]);
  std::vector<Tensor> outputs = outputs_like(grads);
  std::vector<Gradient> list;
  for (size_t i = 0; i < grads.size(); ++i) {
    check_floats(grads[i]);
    TORCH_CHECK(grads[i].scalar_type() == grads[0].scalar_type(), "expected one dtype");
    const bool masked = masks[i].numel() > 0;
    if (masked) check_bytes(masks[i], bytes_for(grads[i].numel()));
    list.push_back({grads[i].const_data_ptr(), masked ? bytes_of(masks[i]) : nullptr,
                    grads[i].numel(), outputs[i].mutable_data_ptr()});
  }
  launch_for(
      grads[0],
      [&] {
        return mask_gradients_cpu(list.data(), static_cast<int64_t>(list.size()), type, kParallel);
      },
      [&](auto stream) {
        int status = kOk;
        for (size_t i = 0; i < list.size() && status == kOk; ++i) {
          if (list[i].mask == nullptr) {
            outputs[i].copy_(grads[i]);
          } else {
            status = select_by_bits_cuda(list[i].grad, type, list[i].mask, list[i].numel,
                                         list[i].out, stream);
          }
        }
        return status;
      });
  return outputs;
}

namespace {

Tensor smallest_magnitude_mask(const Tensor& w, int64_t k) {
  const DType type = check_floats(w);
  TORCH_CHECK(k >= 0 && k <= w.numel(), "expected a count of the weights");
  const Tensor mask = output_bits(w);
  const void* in = w.const_data_ptr();
  uint8_t* out = bytes_of_output(mask);
  launch_for(
      w, [&] { return smallest_magnitude_mask_cpu(in, type, w.numel(), k, out, kParallel); },
      [&](auto stream) {
        const int64_t words = (selection_workspace(w.numel()) + 7) / 8;
        const Tensor workspace =
            at::empty({words}, w.options().dtype(at::kLong).requires_grad(false));
        const int status = smallest_magnitude_mask_cuda(in, type, w.numel(), k, out,
                                                        workspace.mutable_data_ptr(), stream);
        if (status != kOk) return status;
        return workspace[0].item<int64_t>() != 0 ? static_cast<int>(kNotANumber) : status;
      });
  return mask;
}

}  // namespace

void add_weight_operators(Operators& operators) {
  ADD_OPERATORS(operators, fake_quant_per_channel, fake_quant_weights, quantize_per_channel,
                mask_gradients, smallest_magnitude_mask);
}

}  // namespace micronet
