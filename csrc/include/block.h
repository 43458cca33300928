// What follows a convolution in a block: normalization as an affine map of the accumulator, an
// activation function, a gate, and the codes of the result; and the way back. See core.h for what
// all launchers share.
//
// Nothing of this is stored between the passes: each computes it from the accumulator again.
#ifndef MICRONET_BLOCK_H_
#define MICRONET_BLOCK_H_

#include "include/conv.h"
#include "include/function.h"

namespace micronet {

// Accumulators [images, positions, channels] and what makes values of them, for each channel:
// z = fma(acc, scale, shift), a = function(z), and a * gate[image, channel] where there is a gate.
struct Block {
  const void* acc;
  Accumulator type;
  int64_t images, positions, channels;
  const float *scale, *shift;
  Function function;
  const float* gate;  // or null

  MICRONET_HD_MEMBER int64_t numel() const { return images * positions * channels; }
};

// A gradient [images, positions, channels] to the values of a block that were rounded: it passes
// where the value lies inside the range. Without one it passes everywhere. mean_grad
// [images, channels], or null, is added to each position's gradient to a.
struct BlockGradient {
  const void* grad;
  DType type;
  Coding coding;
  const float* mean_grad;
};

// Doubles that the reductions need: block_units(block) times `2 * channels`.
int64_t block_units(const Block& block);

// sums [2, channels]: of the accumulators and of their squares.
int block_moments_cpu(const Block& block, double* partial, double* sums,
                      const ParallelFor& parallel);

// extremes [2] of the values, both NaN where one is.
int block_extremes_cpu(const Block& block, float* partial, float* extremes,
                       const ParallelFor& parallel);

// codes [code_bytes(numel, levels)] of the values, 0 where one is not finite.
int block_codes_cpu(const Block& block, const Coding& coding, uint8_t* codes,
                    const ParallelFor& parallel);

int block_values_cpu(const Block& block, float* values, const ParallelFor& parallel);

// means [images, channels] over the positions, summed by lanes (see exact.h).
int block_means_cpu(const Block& block, float* means, const ParallelFor& parallel);

// sums [2, channels]: of the gradient to z, and of its products with the accumulators.
int block_gradient_sums_cpu(const Block& block, const BlockGradient& gradient, double* partial,
                            double* sums, const ParallelFor& parallel);

// The same sums, and what they are sums of, to be kept: dz [images, positions, channels], the
// gradient to z, for norm_gradient_cpu. For the CPU alone, where making it twice takes longer than
// keeping it.
int block_gradient_kept_cpu(const Block& block, const BlockGradient& gradient, double* partial,
                            double* sums, float* dz, const ParallelFor& parallel);

// dz = dz * k[0] + acc * k[1] + k[2], in place, k [3, channels]: the rest of block_gradient_cpu. Of
// the block only the accumulators are read.
int norm_gradient_cpu(const Block& block, const float* k, float* dz, const ParallelFor& parallel);

// sums [2, channels] of a block with or without a gate, whose values a learned quantizer rounded to
// integers i at the scale S: of grad * (i - S * value) where the gradient passes and grad * i
// elsewhere, and of grad where it does not pass. The gradients to the step and to the offset.
int block_step_sums_cpu(const Block& block, const BlockGradient& gradient, double* partial,
                        double* sums, const ParallelFor& parallel);

// out [images, positions, channels]: dz * k[0] + acc * k[1] + k[2], k [3, channels], rounded to a
// type once.
int block_gradient_cpu(const Block& block, const BlockGradient& gradient, const float* k, void* out,
                       DType type, const ParallelFor& parallel);

// Of a block with a gate: the gradient to a, and to the gate [images, channels], by lanes.
int block_gate_gradient_cpu(const Block& block, const BlockGradient& gradient, float* grad_a,
                            float* grad_gate, const ParallelFor& parallel);

// The same on a CUDA device. partial holds block_parts_cuda(block) times `2 * channels`, workspace
// kWorkspace floats.
int64_t block_parts_cuda(const Block& block);

int block_moments_cuda(const Block& block, double* partial, double* sums, void* stream);

int block_extremes_cuda(const Block& block, float* workspace, float* extremes, void* stream);

int block_codes_cuda(const Block& block, const Coding& coding, uint8_t* codes, void* stream);

int block_values_cuda(const Block& block, float* values, void* stream);

int block_means_cuda(const Block& block, float* means, void* stream);

int block_gradient_sums_cuda(const Block& block, const BlockGradient& gradient, double* partial,
                             double* sums, void* stream);

int block_step_sums_cuda(const Block& block, const BlockGradient& gradient, double* partial,
                         double* sums, void* stream);

int block_gradient_cuda(const Block& block, const BlockGradient& gradient, const float* k,
                        void* out, DType type, void* stream);

int block_gate_gradient_cuda(const Block& block, const BlockGradient& gradient, float* grad_a,
                             float* grad_gate, void* stream);

}  // namespace micronet

#endif  // MICRONET_BLOCK_H_
