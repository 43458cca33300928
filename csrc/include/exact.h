// The float parts of evaluation, each summed in one stated order, so that a network's answer does
// not depend on the batch, the threads or the machine. See core.h for what all launchers share.
#ifndef MICRONET_EXACT_H_
#define MICRONET_EXACT_H_

#include "include/conv.h"

namespace micronet {

// A sum of many terms has so many lanes: lane l takes terms l, l + 16, ...; then lanes are added
// pairwise, 8 + 8, 4 + 4, 2 + 2, 1 + 1.
constexpr int kLanes = 16;

// y [images, out_height, out_width, out_channels] of x, channels last, and float32 weights
// [out_channels, group_channels, kernel_height, kernel_width]: for each output one accumulator from
// 0 on, by fma over the input channels, and for each over the taps row by row; then the bias
// [out_channels] is added, or nothing where it is null. Padding is zeros. workspace holds as many
// floats as there are weights.
int conv2d_deterministic_cpu(const ConvShape& shape, const float* x, const float* w,
                             const float* bias, float* workspace, float* y,
                             const ParallelFor& parallel);

// The same in two steps, for weights that stay as they are: `laid_out` is the workspace.
int lay_out_conv2d_deterministic_cpu(const ConvShape& shape, const float* w, float* laid_out);
int conv2d_deterministic_laid_out_cpu(const ConvShape& shape, const float* x, const float* laid_out,
                                      const float* bias, float* y, const ParallelFor& parallel);

// Images of any order of axes, elements from one of each axis to the next.
struct Images {
  const float* x;
  int64_t image, row, column, channel;
};

// The same for a reader, which has the sums line by line.
int conv2d_deterministic_read_cpu(const ConvShape& shape, const Images& images,
                                  const float* laid_out, const float* bias,
                                  const SumsReader& reader, const ParallelFor& parallel);

// y [rows, outputs]: x [rows, depth] times w [outputs, depth], summed by lanes, then
// fma(sum, ratio, bias), ratio and bias [outputs].
int linear_deterministic_cpu(const float* x, const float* w, const float* ratio, const float* bias,
                             int64_t rows, int64_t depth, int64_t outputs, float* y,
                             const ParallelFor& parallel);

// The same for weights that are whole numbers of a byte.
int linear_bytes_deterministic_cpu(const float* x, const int8_t* w, const float* ratio,
                                   const float* bias, int64_t rows, int64_t depth, int64_t outputs,
                                   float* y, const ParallelFor& parallel);

int conv2d_deterministic_cuda(const ConvShape& shape, const float* x, const float* w,
                              const float* bias, float* y, void* stream);

int linear_deterministic_cuda(const float* x, const float* w, const float* ratio, const float* bias,
                              int64_t rows, int64_t depth, int64_t outputs, float* y, void* stream);

}  // namespace micronet

#endif  // MICRONET_EXACT_H_
