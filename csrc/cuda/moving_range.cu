// The moving range of activations on a CUDA device.

#include "cuda/extremes.h"

namespace micronet {
namespace {

__device__ void move(float lo, float hi, float decay, float* ema, float* range, int64_t* step) {
  *step += 1;
  ema[0] = move_average(ema[0], lo, decay);
  ema[1] = move_average(ema[1], hi, decay);
  range[0] = correct_bias(ema[0], decay, *step);
  range[1] = correct_bias(ema[1], decay, *step);
}

__global__ void move_range(const float* extremes, float decay, float* ema, float* range,
                           int64_t* step) {
  if (threadIdx.x == 0) move(extremes[0], extremes[1], decay, ema, range, step);
}

// Cooperative. x [numel], ema, range [2], step [1] and partial [gridDim.x, 2] in device memory.
template <typename T>
__global__ void update_range(const T* __restrict__ x, int64_t numel, float decay, float* ema,
                             float* range, int64_t* step, float* partial) {
  publish(observe(x, numel), partial);
  if (blockIdx.x != 0) return;
  const Extremes all = gather(partial);
  if (threadIdx.x == 0) move(all.lo(), all.hi(), decay, ema, range, step);
}

}  // namespace

int update_range_cuda(const void* x, DType type, int64_t numel, float decay, float* ema,
                      float* range, int64_t* step, float* workspace, void* stream) {
  if (numel == 0) return kNoElements;
  return with_type(type, [&](auto* t) {
    using T = std::remove_pointer_t<decltype(t)>;
    return launch_cooperative(update_range<T>, observing_grid(numel), stream,
                              static_cast<const T*>(x), numel, decay, ema, range, step, workspace);
  });
}

int move_range_cuda(const float* extremes, float decay, float* ema, float* range, int64_t* step,
                    void* stream) {
  return launch(move_range, 1, stream, extremes, decay, ema, range, step);
}

}  // namespace micronet
