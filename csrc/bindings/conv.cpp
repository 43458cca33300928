// Convolution over codes as a function of tensors.

#include "include/conv.h"

#include "bindings/images.h"
#include "bindings/operators.h"
#include "bindings/tensors.h"

namespace micronet {
namespace {

TensorPair quant_conv2d_as(const Tensor& codes, const Tensor& range, int64_t levels,
                           const Tensor& w, const Tensor& mask, int64_t weight_levels,
                           const ConvShape& s, Accumulator kind) {
  check_bytes(codes, packed_bytes(s.in_numel(), kCodeLevels));
  check_state(range, at::kFloat, 2);
  const DType type = check_floats(w);
  TORCH_CHECK(w.is_contiguous(), "expected contiguous weights");
  if (mask.numel() > 0) check_bytes(mask, bytes_for(w.numel()));
  TORCH_CHECK(levels >= 2 && levels <= kCodeLevels && weight_levels >= 2 &&
                  weight_levels <= kMostWeightLevels,
              "expected levels that fit codes and signed bytes");
  const int l = static_cast<int>(levels), wl = static_cast<int>(weight_levels);
  TORCH_CHECK(accumulator_bound(s, l, wl) <= (kind == kInt16 ? kMostInt16 : kMostInt32),
              "expected sums that fit the accumulator");
  constexpr at::ScalarType kTypes[] = {at::kShort, at::kInt, at::kFloat};
  const Tensor out = channels_last(codes, s, kTypes[kind]);
  const Tensor ratio = at::empty({s.out_channels}, range.options().requires_grad(false));
  const QuantConv conv{s,
                       bytes_of(codes),
                       range.const_data_ptr<float>(),
                       l,
                       w.const_data_ptr(),
                       type,
                       mask.numel() > 0 ? bytes_of(mask) : nullptr,
                       wl,
                       kind,
                       out.mutable_data_ptr(),
                       floats_of_output(ratio)};
  launch_for(
      codes,
      [&] {
        const Tensor workspace = output_flat(codes, quant_conv2d_workspace(s), at::kByte);
        return quant_conv2d_cpu(conv, workspace.mutable_data_ptr(), kParallel);
      },
      [&](auto stream) {
        TORCH_CHECK(s.pixels() <= kMostInt32, "expected fewer output pixels");
        const Tensor workspace = output_flat(codes, quant_conv2d_cuda_workspace(s), at::kByte);
        return quant_conv2d_cuda(conv, workspace.mutable_data_ptr(), stream);
      });
  return {out, ratio};
}

TensorPair quant_conv2d(const Tensor& codes, const Tensor& range, int64_t levels, const Tensor& w,
                        const Tensor& mask, int64_t weight_levels, const Sizes& input,
                        const Sizes& stride, const Sizes& padding, const Sizes& dilation,
                        int64_t groups) {
  const ConvShape s = conv_shape_of(input, w, stride, padding, dilation, groups);
  const int64_t bound =
      accumulator_bound(s, static_cast<int>(levels), static_cast<int>(weight_levels));
  return quant_conv2d_as(codes, range, levels, w, mask, weight_levels, s,
                         bound <= kMostInt16 ? kInt16 : kInt32);
}

Tensor quant_conv2d_values(const Tensor& codes, const Tensor& range, int64_t levels,
                           const Tensor& w, const Tensor& mask, int64_t weight_levels,
                           const Sizes& input, const Sizes& stride, const Sizes& padding,
                           const Sizes& dilation, int64_t groups) {
  const ConvShape s = conv_shape_of(input, w, stride, padding, dilation, groups);
  return std::get<0>(quant_conv2d_as(codes, range, levels, w, mask, weight_levels, s, kValue));
}

}  // namespace

void add_conv_operators(Operators& operators) {
  ADD_OPERATORS(operators, quant_conv2d, quant_conv2d_values);
}

}  // namespace micronet
