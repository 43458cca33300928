// The gradients of a depthwise convolution as a function of tensors.

#include "include/depthwise_gradient.h"

#include <algorithm>
#include <array>

#include "bindings/images.h"
#include "bindings/operators.h"
#include "bindings/tensors.h"

namespace micronet {
namespace {

// The values of every code that its bits can spell.
using Table = std::array<float, kMostLevels>;

Table table_of(const Tensor& table) {
  check_state(table, at::kFloat, table.numel());
  TORCH_CHECK(table.numel() <= kMostLevels, "expected at most ", kMostLevels, " values of codes");
  Table all{};
  const float* values = table.const_data_ptr<float>();
  std::copy(values, values + table.numel(), all.begin());
  return all;
}

ImageValues image_values(const Tensor& x, const ConvShape& s, const Table& table, int64_t levels) {
  if (x.scalar_type() == at::kByte) {
    const int of_codes = static_cast<int>(levels);
    check_bytes(x, code_bytes(s.in_numel(), of_codes));
    return {nullptr, bytes_of(x), table.data(), of_codes};
  }
  check_images(x);
  TORCH_CHECK(x.scalar_type() == at::kFloat && x.numel() == s.in_numel(), "expected float32");
  return {x.const_data_ptr<float>(), nullptr, nullptr, 0};
}

TensorPair depthwise_gradient(const Tensor& grad, const Tensor& x, const Tensor& table,
                              const Tensor& w, const Sizes& input_size, const Sizes& stride,
                              const Sizes& padding, const Sizes& dilation, bool wants_x,
                              bool wants_w) {
  check_images(grad);
  const DType type = check_floats(grad);
  check_state(w, at::kFloat, w.numel());
  const ConvShape s = conv_shape_of(input_size, w, stride, padding, dilation, input_size.at(1));
  TORCH_CHECK(s.is_depthwise() && grad.numel() == s.pixels() * s.out_channels,
              "expected the gradient of a depthwise convolution");
  const Table values = table_of(table);
  const auto options = grad.options().requires_grad(false);
  const int64_t c = s.in_channels, height = s.height, width = s.width;
  const Tensor grad_x =
      wants_x ? output({s.images, c, height, width}, {height * width * c, 1, width * c, c}, options)
              : at::empty({0}, options);
  const auto floats = options.dtype(at::kFloat);
  const Tensor grad_w = wants_w ? at::empty(w.sizes(), floats) : at::empty({0}, floats);
  const DepthwiseGradient gradient{s,
                                   grad.const_data_ptr(),
                                   type,
                                   image_values(x, s, values, table.numel()),
                                   w.const_data_ptr<float>(),
                                   wants_x ? grad_x.mutable_data_ptr() : nullptr,
                                   wants_w ? floats_of_output(grad_w) : nullptr};
  TORCH_CHECK(grad.is_cpu(), "there is no kernel for ", grad.device());
  const Tensor workspace = at::empty({depthwise_gradient_workspace(s)}, floats);
  raise_unless_ok(depthwise_gradient_cpu(gradient, floats_of_output(workspace), kParallel));
  return {grad_x, grad_w};
}

}  // namespace

void add_depthwise_gradient_operators(Operators& operators) {
  ADD_OPERATORS(operators, depthwise_gradient);
  operators.on_cpu_alone.push_back("depthwise_gradient");
}

}  // namespace micronet
