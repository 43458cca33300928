// What all launchers share, and those on single tensors; conv.h, block.h, norm.h and exact.h have
// the rest.
// No framework, and nothing is allocated but a few lines of a tensor for each thread.
//
// Pointers are to the memory space in the launcher's name and belong to the caller. Tensors are
// dense; `void` ones hold the DType that the launcher is told, all others are float32 or what
// their type says; sizes are in elements. Arithmetic is float32 and is rounded to the output's
// type once. Outputs never overlap inputs. Packed bits: flag i is bit i % 8 of byte i / 8, unused
// bits of the last byte are written 0. All results are the same for any number of threads. Every
// launcher returns a Status.
#ifndef MICRONET_CORE_H_
#define MICRONET_CORE_H_

#include <cstdint>

#include "include/quant.h"

namespace micronet {

enum Status : int {
  kOk = 0,
  kNoElements = 1,   // a range was asked of nothing
  kNotANumber = 2,   // magnitudes cannot be compared
  kBadCount = 3,     // a count does not fit the data
  kBadCode = 4,      // a code is not below the number of levels
  kDeviceError = 5,  // the CUDA runtime refused a launch
};

enum DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

static inline int64_t bytes_for(int64_t numel) { return (numel + 7) / 8; }

// Codes of activations take half a byte each up to so many levels, the first of two in the low
// half, and a byte beyond.
constexpr int kHalfByteLevels = 16;
constexpr int kMostLevels = 256;

MICRONET_HD bool are_half_bytes(int levels) { return levels <= kHalfByteLevels; }

// Bytes that hold `numel` codes of activations of `levels` levels.
MICRONET_HD int64_t code_bytes(int64_t numel, int levels) {
  return are_half_bytes(levels) ? (numel + 1) / 2 : numel;
}

// What a quantizer is made from, see Scheme; `range` [2] is null where nothing is rounded.
struct Coding {
  const float* range;
  int levels, scheme;

  MICRONET_HD_MEMBER Quantizer quantizer() const {
    return make_quantizer(range[0], range[1], levels, scheme);
  }
};

// How codes of `levels` levels are packed: groups of `size` codes c0 + c1*L + c2*L^2 ... in `bits`
// bits, one after the other, lowest bit first.
struct CodeGroup {
  int size, bits;
};

// The group of at most eight bits with the fewest bits a code; of equal ones the smallest.
constexpr CodeGroup code_group(int levels) {
  CodeGroup best{1, 8};
  int64_t states = 1;
  for (int size = 1; size <= 8; ++size) {
    states *= levels;
    int bits = 0;
    while ((int64_t{1} << bits) < states) ++bits;
    if (bits > 8) break;
    if (size == 1 || bits * best.size < best.bits * size) best = {size, bits};
  }
  return best;
}

static inline int64_t packed_bytes(int64_t numel, int levels) {
  const CodeGroup group = code_group(levels);
  return ((numel + group.size - 1) / group.size * group.bits + 7) / 8;
}

// One weight of a network, [channels, per_channel], and its mask [bytes_for(numel)] or null for
// all. The values go to w_hat; scale and zero_point [channels] may be null. A learned quantizer
// takes steps [2, channels], each channel's step and zero point; the others their own extremes.
struct Weight {
  const void* w;
  const uint8_t* mask;
  int64_t channels, per_channel;
  int levels;
  void* w_hat;
  float *scale, *zero_point;
  const float* steps;
};

// One gradient [numel] and the mask that it is held to, or null for all.
struct Gradient {
  const void* grad;
  const uint8_t* mask;
  int64_t numel;
  void* out;
};

// A tensor with learned steps: rows [channels, per_channel], step and zero_point [channels], mask
// [bytes_for(numel)] or null for all. The value of x is i / S, S = 1 / step,
// i = clamp(rint(S * x - zero_point), 0, levels - 1) + zero_point.
struct LearnedStep {
  const void* x;
  const uint8_t* mask;
  int64_t channels, per_channel;
  const float *step, *zero_point;
  int levels;
};

// The order of float sums: blocks of 4096 as 16 rows of 256 lanes, 0 beyond the end; each lane
// adds its 16 from row 0 on, starting at +0; then lanes 128 + 128, 64 + 64, ... 1 + 1. The sums of
// the blocks are summed in the same way until one is left.
constexpr int kSumLanes = 256;
constexpr int kSumRows = 16;
constexpr int64_t kSumBlock = kSumLanes * kSumRows;

static inline int64_t sum_blocks(int64_t numel) {
  return numel > kSumBlock ? (numel + kSumBlock - 1) / kSumBlock : 1;
}

// CPU ------------------------------------------------------------------------------------------

// Runs body(context, begin, end) over disjoint pieces that cover [0, count), in any order, on any
// threads; pieces below `grain` units of work are not worth a thread. Returns when all are done.
struct ParallelFor {
  void (*run)(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context);
};

// Moves ema [2] (lo, hi) by the extremes of x [numel], counts step [1] up, and sets range [2] to
// the bias-corrected averages. A NaN in x makes ema and range NaN.
int update_range_cpu(const void* x, DType type, int64_t numel, float decay, float* ema,
                     float* range, int64_t* step, const ParallelFor& parallel);

// As above, by extremes [2] that are known.
int move_range_cpu(const float* extremes, float decay, float* ema, float* range, int64_t* step);

// y [numel]: x rounded to the levels of range [2]; inside [bytes_for(numel)]: lo <= x <= hi.
int fake_quant_per_tensor_cpu(const void* x, DType type, int64_t numel, const float* range,
                              int levels, int scheme, void* y, uint8_t* inside,
                              const ParallelFor& parallel);

// As above, with the extremes [2] of x from the same read; where step [1] is 0, they are the range.
int fake_quant_per_tensor_observed_cpu(const void* x, DType type, int64_t numel, const float* range,
                                       const int64_t* step, int levels, int scheme, void* y,
                                       uint8_t* inside, float* extremes,
                                       const ParallelFor& parallel);

// codes [code_bytes(numel, levels)], each less code_min, 0 where x is not finite; inside and
// extremes as above.
int quantize_per_tensor_cpu(const void* x, DType type, int64_t numel, const float* range,
                            int levels, int scheme, uint8_t* codes, uint8_t* inside,
                            float* extremes, const ParallelFor& parallel);

// y [numel]: the values of codes.
int dequantize_per_tensor_cpu(const uint8_t* codes, int64_t numel, const float* range, int levels,
                              int scheme, float* y, const ParallelFor& parallel);

// out [numel]: values [numel] where the bit in bits [bytes_for(numel)] is 1, else 0.
int select_by_bits_cpu(const void* values, DType type, const uint8_t* bits, int64_t numel,
                       void* out, const ParallelFor& parallel);

// select_by_bits_cpu for each of `count` gradients.
int mask_gradients_cpu(const Gradient* gradients, int64_t count, DType type,
                       const ParallelFor& parallel);

// Each of `count` weights masked and rounded to the range of each of its channels.
int fake_quant_weights_cpu(const Weight* weights, int64_t count, DType type, int scheme,
                           const ParallelFor& parallel);

// As above for one weight whose w_hat takes codes: one byte each, int8 where the scheme is
// Distiller's symmetric one, else uint8; NaN has code 0. Those of kSymmetric are less code_min,
// which the zero point takes back.
int quantize_per_channel_cpu(const Weight& weight, DType type, int scheme,
                             const ParallelFor& parallel);

// y [channels, per_channel]: the values of s.x.
int fake_quant_learned_step_cpu(const LearnedStep& s, DType type, void* y,
                                const ParallelFor& parallel);

// grad_x like grad: grad where zero_point < S * x < zero_point + levels - 1 and the mask keeps x,
// else 0. grad_step [channels]: gradient_scale times the sums of grad * (i - S * x) there and of
// grad * i elsewhere. workspace [channels * sum_blocks(per_channel)].
int fake_quant_learned_step_backward_cpu(const LearnedStep& s, DType type, const void* grad,
                                         float gradient_scale, void* grad_x, float* grad_step,
                                         float* workspace, const ParallelFor& parallel);

// packed [packed_bytes(numel, levels)] of codes [numel].
int pack_codes_cpu(const uint8_t* codes, int64_t numel, int levels, uint8_t* packed,
                   const ParallelFor& parallel);

// codes [numel] of packed [packed_bytes(numel, levels)].
int unpack_codes_cpu(const uint8_t* packed, int64_t numel, int levels, uint8_t* codes,
                     const ParallelFor& parallel);

// bits [bytes_for(numel)] of flags [numel], each 0 or 1.
int pack_bits_cpu(const uint8_t* flags, int64_t numel, uint8_t* bits, const ParallelFor& parallel);

// flags [numel], each 0 or 1, of bits [bytes_for(numel)].
int unpack_bits_cpu(const uint8_t* bits, int64_t numel, uint8_t* flags,
                    const ParallelFor& parallel);

// count [1]: how many of the first numel bits are 1.
int count_bits_cpu(const uint8_t* bits, int64_t numel, int64_t* count);

// kept [count]: the values [numel] of `width` bytes each whose bit is 1, in order. kBadCount, and
// nothing written, where other than `count` bits are 1.
int compact_by_bits_cpu(const void* values, int width, const uint8_t* bits, int64_t numel,
                        int64_t count, void* kept);

// values [numel]: kept [count] where the bit is 1, else 0; kBadCount as above.
int expand_by_bits_cpu(const void* kept, int width, const uint8_t* bits, int64_t numel,
                       int64_t count, void* values);

// counts [channels]: elements of each row of w [channels, per_channel] other than 0.
int count_nonzero_cpu(const void* w, DType type, int64_t channels, int64_t per_channel,
                      int64_t* counts, const ParallelFor& parallel);

// mask [bytes_for(numel)]: 0 at the k smallest |w|, of equal ones at those of lower index.
int smallest_magnitude_mask_cpu(const void* w, DType type, int64_t numel, int64_t k, uint8_t* mask,
                                const ParallelFor& parallel);

// CUDA -----------------------------------------------------------------------------------------
//
// Defined where the build has CUDA. All pointers are to device memory, but for the structs and
// lists of structs, which are read on the host before the launcher returns; work is queued on
// `stream` (a cudaStream_t) and not waited for, unless said otherwise. Every workspace has
// kWorkspace floats, need not be initialized, and is the launcher's until its work is done.

constexpr int64_t kWorkspace = 4096;

int update_range_cuda(const void* x, DType type, int64_t numel, float decay, float* ema,
                      float* range, int64_t* step, float* workspace, void* stream);

int move_range_cuda(const float* extremes, float decay, float* ema, float* range, int64_t* step,
                    void* stream);

int fake_quant_per_tensor_cuda(const void* x, DType type, int64_t numel, const float* range,
                               int levels, int scheme, void* y, uint8_t* inside, void* stream);

int fake_quant_per_tensor_observed_cuda(const void* x, DType type, int64_t numel,
                                        const float* range, const int64_t* step, int levels,
                                        int scheme, void* y, uint8_t* inside, float* extremes,
                                        float* workspace, void* stream);

int quantize_per_tensor_cuda(const void* x, DType type, int64_t numel, const float* range,
                             int levels, int scheme, uint8_t* codes, uint8_t* inside,
                             float* extremes, float* workspace, void* stream);

int dequantize_per_tensor_cuda(const uint8_t* codes, int64_t numel, const float* range, int levels,
                               int scheme, void* y, DType type, void* stream);

int select_by_bits_cuda(const void* values, DType type, const uint8_t* bits, int64_t numel,
                        void* out, void* stream);

int fake_quant_per_channel_cuda(const Weight& weight, DType type, int scheme, void* stream);

int quantize_per_channel_cuda(const Weight& weight, DType type, int scheme, void* stream);

int fake_quant_learned_step_cuda(const LearnedStep& s, DType type, void* y, void* stream);

// partial [channels * sum_blocks(per_channel) * 2] is workspace.
int fake_quant_learned_step_backward_cuda(const LearnedStep& s, DType type, const void* grad,
                                          float gradient_scale, void* grad_x, float* grad_step,
                                          float* partial, void* stream);

// A code that is not below `levels` is taken modulo the bits that it has room for.
int pack_codes_cuda(const uint8_t* codes, int64_t numel, int levels, uint8_t* packed, void* stream);

int unpack_codes_cuda(const uint8_t* packed, int64_t numel, int levels, uint8_t* codes,
                      void* stream);

int pack_bits_cuda(const uint8_t* flags, int64_t numel, uint8_t* bits, void* stream);

int unpack_bits_cuda(const uint8_t* bits, int64_t numel, uint8_t* flags, void* stream);

int count_bits_cuda(const uint8_t* bits, int64_t numel, int64_t* count, void* stream);

// offsets [(numel + kCompactBlock - 1) / kCompactBlock + 1] is workspace: the number of bits that
// are 1 before each block, and before the end. The caller compares the last with `count` after
// the launch; no more than `count` values are ever written or read.
constexpr int64_t kCompactBlock = 4096;

int compact_by_bits_cuda(const void* values, int width, const uint8_t* bits, int64_t numel,
                         int64_t count, void* kept, int64_t* offsets, void* stream);

int expand_by_bits_cuda(const void* kept, int width, const uint8_t* bits, int64_t numel,
                        int64_t count, void* values, int64_t* offsets, void* stream);

int count_nonzero_cuda(const void* w, DType type, int64_t channels, int64_t per_channel,
                       int64_t* counts, void* stream);

// workspace [selection_workspace(numel)] bytes, 8-byte aligned. Its first int64 is not 0 after the
// launch where w holds NaN; the mask then is meaningless.
int64_t selection_workspace(int64_t numel);

int smallest_magnitude_mask_cuda(const void* w, DType type, int64_t numel, int64_t k, uint8_t* mask,
                                 void* workspace, void* stream);

}  // namespace micronet

#endif  // MICRONET_CORE_H_
