// Batch normalization of a convolution's sums, channel by channel: the statistics of the batch, the
// affine map that they make, the running statistics, and the way back. See core.h for what all
// launchers share. Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
//
// Statistics are float64, the map float32; every operation rounds once, in the order written here.
#ifndef MICRONET_NORM_H_
#define MICRONET_NORM_H_

#include "include/quant.h"

namespace micronet {

// z = (y - mean) / sqrt(variance + eps) * weight + bias of the values y = acc * dequant_scale. All
// pointers are to [channels]; weight and bias may be null.
struct Norm {
  int64_t channels;
  const float *dequant_scale, *weight, *bias;
  double eps;
};

// Statistics that follow those of the batches, [channels]; null where they are not kept.
struct RunningStatistics {
  float *mean, *variance;
  float momentum;
};

// Of the values, and z as fma(acc, scale, shift); all [channels].
struct NormFold {
  double *mean, *variance;
  float *scale, *shift;
};

// sums [2, channels] of the gradient dz to z and of dz * acc. count is the number of values that
// mean and variance are of; 0 where those do not depend on the values.
struct NormGradient {
  const double *sums, *mean, *variance;
  int64_t count;
};

// The gradient to y is dz * k[0] + (acc * k[1] + k[2]), k [3, channels]; the others [channels].
struct NormGradientMap {
  float *k, *weight, *bias;
};

// torch's lerp_, which rounds the multiply-add once.
MICRONET_HD float interpolate(float start, float end, float weight) {
  const float distance = end - start;
  return fabsf(weight) < 0.5f ? fmaf(weight, distance, start) : fmaf(weight - 1.0f, distance, end);
}

// sums [2, channels] of the accumulators and of their squares, each of `count` values.
MICRONET_HD void fold_channel(const Norm& norm, const double* sums, int64_t count,
                              const RunningStatistics& running, const NormFold& out, int64_t c) {
  const double values = static_cast<double>(count);
  const double step = norm.dequant_scale[c];
  const double center = sums[c] / values;
  double spread = sums[norm.channels + c] / values - center * center;
  spread = spread < 0.0 ? 0.0 : spread;
  const double mean = center * step, variance = spread * step * step;
  out.mean[c] = mean;
  out.variance[c] = variance;
  if (running.mean != nullptr) {
    running.mean[c] = interpolate(running.mean[c], static_cast<float>(mean), running.momentum);
  }
  if (running.variance != nullptr) {
    const double unbiased = variance * (values / (count > 1 ? values - 1.0 : 1.0));
    running.variance[c] =
        interpolate(running.variance[c], static_cast<float>(unbiased), running.momentum);
  }
  const float deviation = sqrtf(static_cast<float>(variance) + static_cast<float>(norm.eps));
  const float gain = (norm.weight == nullptr ? 1.0f : norm.weight[c]) / deviation;
  const float offset = static_cast<float>(mean) * gain;
  out.scale[c] = norm.dequant_scale[c] * gain;
  out.shift[c] = norm.bias == nullptr ? -offset : norm.bias[c] - offset;
}

MICRONET_HD void map_channel(const Norm& norm, const NormGradient& gradient,
                             const NormGradientMap& out, int64_t c) {
  const double first = gradient.sums[c], second = gradient.sums[norm.channels + c];
  const double inverse = 1.0 / sqrt(gradient.variance[c] + norm.eps);
  const double scale = norm.dequant_scale[c] * inverse;
  const double offset = gradient.mean[c] * inverse;
  const double along = second * scale - first * offset;  // sum of dz * (z - bias) / weight
  const double gain = norm.weight == nullptr ? inverse : norm.weight[c] * inverse;
  double slope = 0.0, constant = 0.0;
  if (gradient.count > 0) {
    const double values = static_cast<double>(gradient.count);
    slope = -gain * along / values * scale;
    constant = gain * (along * offset - first) / values;
  }
  out.k[c] = static_cast<float>(gain);
  out.k[norm.channels + c] = static_cast<float>(slope);
  out.k[2 * norm.channels + c] = static_cast<float>(constant);
  out.weight[c] = static_cast<float>(along);
  out.bias[c] = static_cast<float>(first);
}

int norm_fold_cpu(const Norm& norm, const double* sums, int64_t count,
                  const RunningStatistics& running, const NormFold& out);

int norm_gradient_map_cpu(const Norm& norm, const NormGradient& gradient,
                          const NormGradientMap& out);

// The same on a CUDA device.
int norm_fold_cuda(const Norm& norm, const double* sums, int64_t count,
                   const RunningStatistics& running, const NormFold& out, void* stream);

int norm_gradient_map_cuda(const Norm& norm, const NormGradient& gradient,
                           const NormGradientMap& out, void* stream);

}  // namespace micronet

#endif  // MICRONET_NORM_H_
