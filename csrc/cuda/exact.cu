// The float parts of evaluation on a CUDA device, each summed in its stated order.

#include <cmath>

#include "cuda/launch.h"
#include "include/exact.h"

namespace micronet {
namespace {

constexpr int kLaneOutputs = kThreads / kLanes;

// A thread makes an output.
__global__ void float_conv(const ConvShape s, const float* x, const float* w, const float* bias,
                           float* y) {
  const int64_t per_group = s.out_channels / s.groups;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < s.pixels() * s.out_channels; i += step) {
    const int64_t output = i % s.out_channels, pixel = i / s.out_channels;
    const int64_t column = pixel % s.out_width * s.stride_x - s.left;
    const int64_t row = pixel / s.out_width % s.out_height * s.stride_y - s.top;
    const int64_t image = pixel / s.out_width / s.out_height;
    const float* weight = w + output * s.depth();
    float sum = 0.0f;
    for (int64_t c = 0; c < s.group_channels(); ++c) {
      const int64_t channel = output / per_group * s.group_channels() + c;
      for (int64_t tap = 0; tap < s.taps(); ++tap, ++weight) {
        const int64_t iy = row + tap / s.kernel_width * s.dilation_y;
        const int64_t ix = column + tap % s.kernel_width * s.dilation_x;
        const bool inside = iy >= 0 && iy < s.height && ix >= 0 && ix < s.width;
        const int64_t at = ((image * s.height + iy) * s.width + ix) * s.in_channels + channel;
        sum = fmaf(inside ? x[at] : 0.0f, *weight, sum);
      }
    }
    y[i] = bias == nullptr ? sum : sum + bias[output];
  }
}

// A block makes kLaneOutputs outputs of a row, with a thread for each of their lanes.
__global__ void linear(const float* x, const float* w, const float* ratio, const float* bias,
                       int64_t rows, int64_t depth, int64_t outputs, float* y) {
  __shared__ float lanes[kLaneOutputs][kLanes];
  const int64_t columns = (outputs + kLaneOutputs - 1) / kLaneOutputs;
  const int lane = static_cast<int>(threadIdx.x % kLanes);
  const int mine = static_cast<int>(threadIdx.x / kLanes);
  for (int64_t unit = blockIdx.x; unit < rows * columns; unit += gridDim.x) {
    const int64_t row = unit / columns, output = unit % columns * kLaneOutputs + mine;
    float sum = 0.0f;
    for (int64_t k = lane; k < depth && output < outputs; k += kLanes) {
      sum = fmaf(x[row * depth + k], w[output * depth + k], sum);
    }
    __syncthreads();  // the row before may still be added up
    lanes[mine][lane] = sum;
    for (int half = kLanes / 2; half > 0; half /= 2) {
      __syncthreads();
      if (lane < half) lanes[mine][lane] += lanes[mine][lane + half];
    }
    if (lane == 0 && output < outputs) {
      y[row * outputs + output] = fmaf(lanes[mine][0], ratio[output], bias[output]);
    }
  }
}

}  // namespace

int conv2d_deterministic_cuda(const ConvShape& shape, const float* x, const float* w,
                              const float* bias, float* y, void* stream) {
  return launch(float_conv, grid_for(shape.pixels() * shape.out_channels), stream, shape, x, w,
                bias, y);
}

int linear_deterministic_cuda(const float* x, const float* w, const float* ratio, const float* bias,
                              int64_t rows, int64_t depth, int64_t outputs, float* y,
                              void* stream) {
  if (rows * outputs == 0) return kOk;
  const int64_t columns = (outputs + kLaneOutputs - 1) / kLaneOutputs;
  return launch(linear, grid_for(rows * columns * kThreads), stream, x, w, ratio, bias, rows, depth,
                outputs, y);
}

}  // namespace micronet
