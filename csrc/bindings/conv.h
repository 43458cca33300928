// Convolution over codes as a function of tensors. Part of bindings.cpp.
#ifndef MICRONET_BINDINGS_CONV_H_
#define MICRONET_BINDINGS_CONV_H_

#include "../conv.h"
#include "tensors.h"

namespace micronet {
namespace {

using Sizes = std::vector<int64_t>;

ConvShape conv_shape_of(const Sizes& input, const Tensor& w, const Sizes& stride,
                        const Sizes& padding, const Sizes& dilation, int64_t groups) {
  TORCH_CHECK(input.size() == 4 && w.dim() == 4 && stride.size() == 2 && padding.size() == 4 &&
                  dilation.size() == 2,
              "expected the sizes of a convolution over images");
  ConvShape s{};
  s.images = input[0], s.in_channels = input[1], s.height = input[2], s.width = input[3];
  s.out_channels = w.size(0), s.groups = groups;
  s.kernel_height = w.size(2), s.kernel_width = w.size(3);
  s.stride_y = stride[0], s.stride_x = stride[1];
  s.top = padding[0], s.left = padding[1];
  s.dilation_y = dilation[0], s.dilation_x = dilation[1];
  for (const int64_t size : input) TORCH_CHECK(size > 0, "expected an input that is not empty");
  TORCH_CHECK(groups > 0 && s.out_channels % groups == 0 && w.size(1) * groups == s.in_channels &&
                  w.numel() > 0,
              "expected weights that fit the channels");
  const auto outputs = [](int64_t size, int64_t kernel, int64_t step, int64_t spread) {
    TORCH_CHECK(step > 0 && spread > 0, "expected a positive stride and dilation");
    return (size - spread * (kernel - 1) - 1) / step + 1;
  };
  s.out_height =
      outputs(s.height + padding[0] + padding[2], s.kernel_height, stride[0], dilation[0]);
  s.out_width = outputs(s.width + padding[1] + padding[3], s.kernel_width, stride[1], dilation[1]);
  TORCH_CHECK(s.out_height > 0 && s.out_width > 0, "expected an input larger than the kernel");
  return s;
}

// An empty tensor [images, channels, height, width], channels last.
Tensor channels_last(const Tensor& like, const ConvShape& s, at::ScalarType dtype) {
  const int64_t c = s.out_channels, h = s.out_height, w = s.out_width;
  return output({s.images, c, h, w}, {h * w * c, 1, w * c, c},
                like.options().dtype(dtype).requires_grad(false));
}

TensorPair quant_conv2d_as(const Tensor& codes, const Tensor& range, int64_t levels,
                           const Tensor& w, const Tensor& mask, int64_t weight_levels,
                           const ConvShape& s, Accumulator kind) {
  check_bytes(codes, packed_bytes(s.in_numel(), kCodeLevels));
  check_state(range, at::kFloat, 2);
  const Float type = check_floats(w);
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
}  // namespace micronet

#endif  // MICRONET_BINDINGS_CONV_H_
