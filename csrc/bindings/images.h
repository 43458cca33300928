// Images, channels last, and the geometry of convolutions over them.
#ifndef MICRONET_BINDINGS_IMAGES_H_
#define MICRONET_BINDINGS_IMAGES_H_

#include <vector>

#include "bindings/tensors.h"
#include "include/conv.h"

namespace micronet {

using Sizes = std::vector<int64_t>;

void check_images(const Tensor& x);

// Padding is top, left, bottom, right.
ConvShape conv_shape_of(const Sizes& input, const Tensor& w, const Sizes& stride,
                        const Sizes& padding, const Sizes& dilation, int64_t groups);

// An empty tensor [images, channels, height, width], channels last.
Tensor channels_last(const Tensor& like, const ConvShape& s, at::ScalarType dtype);

}  // namespace micronet

#endif  // MICRONET_BINDINGS_IMAGES_H_
