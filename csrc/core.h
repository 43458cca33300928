// Every launcher of the core: the only public header. No framework, no allocation.
//
// Pointers are to the memory space in the launcher's name and belong to the caller. Tensors are
// dense float32 unless the type says otherwise; sizes are in elements. Outputs never overlap
// inputs. Packed bits: flag i is bit i % 8 of byte i / 8, unused bits of the last byte are
// written 0. All results are the same for any number of threads. Every launcher returns a Status.
#ifndef MICRONET_CORE_H_
#define MICRONET_CORE_H_

#include <cstdint>

#include "quant.h"

namespace micronet {

enum Status : int {
  kOk = 0,
  kNoElements = 1,   // a range was asked of nothing
  kNotANumber = 2,   // magnitudes cannot be compared
  kBadCount = 3,     // k lies outside 0 to numel
  kDeviceError = 4,  // the CUDA runtime refused a launch
};

// Runs body(context, begin, end) over disjoint pieces that cover [0, count), in any order, on any
// threads; pieces below `grain` units of work are not worth a thread. Returns when all are done.
struct ParallelFor {
  void (*run)(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context);
};

inline int64_t bytes_for(int64_t numel) { return (numel + 7) / 8; }

// Moves ema [2] (lo, hi) by the extremes of x [numel], counts step [1] up, and sets range [2] to
// the bias-corrected averages. A NaN in x makes ema and range NaN.
int update_range_cpu(const float* x, int64_t numel, float decay, float* ema, float* range,
                     int64_t* step, const ParallelFor& parallel);

// y [numel]: x rounded to the levels of range [2]; inside [bytes_for(numel)]: lo <= x <= hi.
int fake_quant_per_tensor_cpu(const float* x, int64_t numel, const float* range, int levels,
                              int scheme, float* y, uint8_t* inside, const ParallelFor& parallel);

// out [numel]: values [numel] where the bit in bits [bytes_for(numel)] is 1, else 0.
int select_by_bits_cpu(const float* values, const uint8_t* bits, int64_t numel, float* out,
                       const ParallelFor& parallel);

// w [channels, per_channel] masked by mask [bytes_for(channels * per_channel)], or null for all,
// and rounded per channel. w_hat like w; scale [channels]; zero_point [channels].
int fake_quant_per_channel_cpu(const float* w, const uint8_t* mask, int64_t channels,
                               int64_t per_channel, int levels, int scheme, float* w_hat,
                               float* scale, float* zero_point, const ParallelFor& parallel);

// As above, but codes [channels, per_channel]: one byte each, int8 where scheme is symmetric,
// else uint8; NaN has code 0. workspace [channels, per_channel] may be null where mask is.
int quantize_per_channel_cpu(const float* w, const uint8_t* mask, int64_t channels,
                             int64_t per_channel, int levels, int scheme, float* workspace,
                             uint8_t* codes, float* scale, float* zero_point,
                             const ParallelFor& parallel);

// mask [bytes_for(numel)]: 0 at the k smallest |w|, of equal ones at those of lower index.
int smallest_magnitude_mask_cpu(const float* w, int64_t numel, int64_t k, uint8_t* mask);

// bits [bytes_for(numel)] of flags [numel], each 0 or 1.
int pack_bits_cpu(const uint8_t* flags, int64_t numel, uint8_t* bits, const ParallelFor& parallel);

// flags [numel], each 0 or 1, of bits [bytes_for(numel)].
int unpack_bits_cpu(const uint8_t* bits, int64_t numel, uint8_t* flags,
                    const ParallelFor& parallel);

// counts [channels]: elements of each row of w [channels, per_channel] other than 0.
int count_nonzero_cpu(const float* w, int64_t channels, int64_t per_channel, int64_t* counts,
                      const ParallelFor& parallel);

#ifdef MICRONET_CUDA
// All pointers are to device memory; work is queued on `stream` (a cudaStream_t) and not waited
// for.

// Floats of workspace that update_range_cuda needs.
constexpr int64_t kRangeWorkspace = 2 * 512;

int update_range_cuda(const float* x, int64_t numel, float decay, float* ema, float* range,
                      int64_t* step, float* workspace, void* stream);

int fake_quant_per_tensor_cuda(const float* x, int64_t numel, const float* range, int levels,
                               int scheme, float* y, uint8_t* inside, void* stream);

int select_by_bits_cuda(const float* values, const uint8_t* bits, int64_t numel, float* out,
                        void* stream);
#endif  // MICRONET_CUDA

}  // namespace micronet

#endif  // MICRONET_CORE_H_
