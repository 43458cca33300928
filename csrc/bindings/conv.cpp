// Convolution over codes as a function of tensors.

#include "include/conv.h"

#include <type_traits>

#include "bindings/images.h"
#include "bindings/operators.h"
#include "bindings/tensors.h"

namespace micronet {
namespace {

// The quantized weights of a convolution.
struct QuantWeights {
  const Tensor &w, &mask;
  int64_t levels, scheme;
  const Tensor& steps;  // [2, out_channels], or empty
};

TensorPair quant_conv2d_as(const Tensor& codes, const Coding& coding, const QuantWeights& weights,
                           const ConvShape& s, Accumulator kind) {
  const Tensor &w = weights.w, &mask = weights.mask;
  check_bytes(codes, code_bytes(s.in_numel(), coding.levels));
  TORCH_CHECK(coding.range != nullptr, "expected a range");
  const DType type = check_floats(w);
  TORCH_CHECK(w.is_contiguous(), "expected contiguous weights");
  if (mask.numel() > 0) check_bytes(mask, bytes_for(w.numel()));
  const Coding of_weights =
      coding_of(weights.steps, weights.levels, weights.scheme, 2 * s.out_channels);
  TORCH_CHECK((of_weights.scheme == kLearned) == (of_weights.range != nullptr),
              "expected steps where they are learned");
  TORCH_CHECK(accumulator_bound(s, coding.levels, of_weights.levels) <=
                  (kind == kInt16 ? kMostInt16 : kMostInt32),
              "expected sums that fit the accumulator");
  constexpr at::ScalarType kTypes[] = {at::kShort, at::kInt, at::kFloat};
  const Tensor out = channels_last(codes, s, kTypes[kind]);
  const Tensor ratio =
      at::empty({s.out_channels}, codes.options().dtype(at::kFloat).requires_grad(false));
  const QuantConv conv{s,
                       bytes_of(codes),
                       coding,
                       w.const_data_ptr(),
                       type,
                       mask.numel() > 0 ? bytes_of(mask) : nullptr,
                       of_weights.levels,
                       of_weights.scheme,
                       of_weights.range,
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

// The sums of a convolution in the narrowest integers that hold them, and the ratio of each channel
// that makes values of them; or the values alone.
template <bool kAsValues>
std::conditional_t<kAsValues, Tensor, TensorPair> convolve_codes(
    const Tensor& codes, const Tensor& range, int64_t levels, int64_t scheme, const Tensor& w,
    const Tensor& mask, int64_t weight_levels, int64_t weight_scheme, const Tensor& weight_steps,
    const Sizes& input, const Sizes& stride, const Sizes& padding, const Sizes& dilation,
    int64_t groups) {
  check_state(range, at::kFloat, 2);
  const ConvShape s = conv_shape_of(input, w, stride, padding, dilation, groups);
  const Coding coding = coding_of(range, levels, scheme);
  const QuantWeights weights{w, mask, weight_levels, weight_scheme, weight_steps};
  if constexpr (kAsValues) {
    return std::get<0>(quant_conv2d_as(codes, coding, weights, s, kValue));
  } else {
    const int64_t bound =
        accumulator_bound(s, static_cast<int>(levels), static_cast<int>(weight_levels));
    return quant_conv2d_as(codes, coding, weights, s, bound <= kMostInt16 ? kInt16 : kInt32);
  }
}

constexpr auto quant_conv2d = convolve_codes<false>;
constexpr auto quant_conv2d_values = convolve_codes<true>;

}  // namespace

void add_conv_operators(Operators& operators) {
  ADD_OPERATORS(operators, quant_conv2d, quant_conv2d_values);
}

}  // namespace micronet
