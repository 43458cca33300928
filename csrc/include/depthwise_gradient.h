// The gradients of a depthwise convolution. See core.h for what all launchers share.
#ifndef MICRONET_DEPTHWISE_GRADIENT_H_
#define MICRONET_DEPTHWISE_GRADIENT_H_

#include "include/conv.h"

namespace micronet {

// The images that were convolved: float32 values, channels last, or their codes, of which code c
// stands for table [levels] at c. See core.h for how codes lie.
struct ImageValues {
  const float* values;
  const uint8_t* codes;
  const float* table;
  int levels;
};

// The gradient to the outputs [images, out_height, out_width, channels] and the weights [channels,
// kernel_height, kernel_width], and what comes of them: the gradient to the images, of the type of
// `grad`, and to the weights, either null where it is not wanted.
//
// Sums are float32, each product added by fma. One to the images starts from 0 and takes the taps
// in order, row by row; outputs that there are not count as zeros. One to the weights takes the
// columns of a row of outputs from 0 on; rows of an image are added in order, and images in order,
// in float64. What lies outside the image counts as zeros beside a row of pixels, and is left out
// above and below.
struct DepthwiseGradient {
  ConvShape shape;
  const void* grad;
  DType type;
  ImageValues x;
  const float* w;
  void* grad_x;
  float* grad_w;
};

// Floats that depthwise_gradient_cpu needs beside its operands.
int64_t depthwise_gradient_workspace(const ConvShape& shape);

// `shape` is depthwise.
int depthwise_gradient_cpu(const DepthwiseGradient& gradient, float* workspace,
                           const ParallelFor& parallel);

}  // namespace micronet

#endif  // MICRONET_DEPTHWISE_GRADIENT_H_
