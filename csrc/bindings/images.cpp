// Images and the geometry of convolutions over them.

#include "bindings/images.h"

namespace micronet {

void check_images(const Tensor& x) {
  TORCH_CHECK(x.dim() == 4 && x.numel() > 0 && x.is_contiguous(at::MemoryFormat::ChannelsLast),
              "expected images, channels last");
}

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

Tensor channels_last(const Tensor& like, const ConvShape& s, at::ScalarType dtype) {
  const int64_t c = s.out_channels, h = s.out_height, w = s.out_width;
  return output({s.images, c, h, w}, {h * w * c, 1, w * c, c},
                like.options().dtype(dtype).requires_grad(false));
}

}  // namespace micronet
