// Rows of a block on their way to shared memory while a thread works on the one before: what hides
// the latency of memory where registers hold so many sums that few threads fit.
#ifndef MICRONET_CUDA_ROWS_AHEAD_H_
#define MICRONET_CUDA_ROWS_AHEAD_H_

#include "cuda/block_columns.h"
#include "cuda/tensor_core.h"

namespace micronet {

// Eight accumulators and eight gradients of each thread, up to two packets of 16 bytes each. A
// thread reads what it has copied itself, so that no barrier is needed.
class RowsAhead {
 public:
  static constexpr int kStages = 2, kOfEach = 2;
  using Slots = uint4[kStages][2 * kOfEach][kThreads];

  __device__ RowsAhead(Slots* slots, const Block& block, const BlockGradient& gradient)
      : slots_(*slots),
        block_(block),
        gradient_(gradient),
        of_acc_(block.type == kInt16 ? 1 : kOfEach),
        of_grad_(gradient.type == kFloat32 ? kOfEach : 1) {}

  // Calls body(run, accumulators, gradients) for each row of a strip.
  template <typename Body>
  __device__ __forceinline__ void for_rows(const Columns& c, const Strip& strip, const Body& body) {
    int stage = 0;
    const int64_t step = c.lanes * c.channels;
    if (strip.first < strip.last) fetch(stage, strip.first * c.channels + strip.channel);
    commit_copies();
    strip.for_rows(c, [&](const Run& run) {
      if (run.row + c.lanes < strip.last) fetch(stage ^ 1, run.first + step);
      commit_copies();
      wait_for_copies<1>();
      float acc[kEach], grad[kEach];
      take_accumulators(stage, acc);
      take_gradient(stage, grad);
      body(run, acc, grad);
      stage ^= 1;
    });
  }

 private:
  __device__ __forceinline__ void fetch(int stage, int64_t first) {
    copy(stage, 0, of_acc_, block_.acc, first);
    copy(stage, kOfEach, of_grad_, gradient_.grad, first);
  }

  __device__ __forceinline__ void copy(int stage, int slot, int packets, const void* elements,
                                       int64_t first) {
    const uint4* from = static_cast<const uint4*>(elements) + first / kEach * packets;
    copy_async<16>(&slots_[stage][slot][threadIdx.x], from);
    if (packets > 1) copy_async<16>(&slots_[stage][slot + 1][threadIdx.x], from + 1);
  }

  __device__ __forceinline__ void take_accumulators(int stage, float (&v)[kEach]) {
    if (block_.type == kInt16) {
      take<int16_t>(stage, 0, v);
    } else if (block_.type == kInt32) {
      take<int32_t>(stage, 0, v);
    } else {
      take<float>(stage, 0, v);
    }
  }

  __device__ __forceinline__ void take_gradient(int stage, float (&v)[kEach]) {
    if (gradient_.type == kBFloat16) {
      take<__nv_bfloat16>(stage, kOfEach, v);
    } else if (gradient_.type == kFloat16) {
      take<__half>(stage, kOfEach, v);
    } else {
      take<float>(stage, kOfEach, v);
    }
  }

  template <typename T>
  __device__ __forceinline__ void take(int stage, int slot, float (&v)[kEach]) {
    constexpr int kSize = Packet<T>::kSize;
#pragma unroll
    for (int p = 0; p < kEach; p += kSize) {
      const Packet<T> packet =
          reinterpret_cast<const Packet<T>&>(slots_[stage][slot + p / kSize][threadIdx.x]);
#pragma unroll
      for (int i = 0; i < kSize; ++i) v[p + i] = to_float(packet.values[i]);
    }
  }

  Slots& slots_;
  const Block& block_;
  const BlockGradient& gradient_;
  int of_acc_, of_grad_;
};

}  // namespace micronet

#endif  // MICRONET_CUDA_ROWS_AHEAD_H_
