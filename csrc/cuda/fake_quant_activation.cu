// Activations on a CUDA device: the moving range and rounding to it. Nothing waits for the device.

#include "../core.h"
#include "launch.h"

namespace micronet {
namespace {

constexpr int kWarp = 32;
constexpr int kRangeBlocks = static_cast<int>(kRangeWorkspace / 2);

// fminf drops NaN; here a NaN wins from either side, so the order of a reduction is not seen.
__device__ float least_of(float a, float b) { return a != a || a < b ? a : b; }
__device__ float most_of(float a, float b) { return a != a || a > b ? a : b; }

// Extremes over the block, valid in thread 0. Every thread must call.
__device__ void reduce_block(float& least, float& most) {
  __shared__ float shared_least[kThreads], shared_most[kThreads];
  const unsigned t = threadIdx.x;
  shared_least[t] = least;
  shared_most[t] = most;
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (t < half) {
      shared_least[t] = least_of(shared_least[t], shared_least[t + half]);
      shared_most[t] = most_of(shared_most[t], shared_most[t + half]);
    }
  }
  least = shared_least[0];
  most = shared_most[0];
}

// Stage 1. partial [2, gridDim.x], device memory: extremes of each block's share of x.
__global__ void extremes_per_block(const float* __restrict__ x, int64_t numel,
                                   float* __restrict__ partial) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  float least = INFINITY, most = -INFINITY;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < numel;
       i += stride) {
    least = least_of(least, x[i]);
    most = most_of(most, x[i]);
  }
  reduce_block(least, most);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = least;
    partial[gridDim.x + blockIdx.x] = most;
  }
}

// Stage 2, one block. partial [2, blocks]; ema, range [2] and step [1] in device memory.
__global__ void move_range(const float* __restrict__ partial, int blocks, float decay, float* ema,
                           float* range, int64_t* step) {
  float least = INFINITY, most = -INFINITY;
  for (int b = static_cast<int>(threadIdx.x); b < blocks; b += kThreads) {
    least = least_of(least, partial[b]);
    most = most_of(most, partial[blocks + b]);
  }
  reduce_block(least, most);
  if (threadIdx.x == 0) {
    *step += 1;
    ema[0] = move_average(ema[0], least, decay);
    ema[1] = move_average(ema[1], most, decay);
    range[0] = correct_bias(ema[0], decay, *step);
    range[1] = correct_bias(ema[1], decay, *step);
  }
}

// A warp takes 32 neighbours, so one ballot holds their 32 bits and lanes 0 to 3 write a byte each.
// All lanes stay in the loop to the end of their warp's last group.
__global__ void fake_quant(const float* __restrict__ x, int64_t numel,
                           const float* __restrict__ range, int levels, int scheme,
                           float* __restrict__ y, uint8_t* __restrict__ inside) {
  const Quantiser q = make_quantiser(range[0], range[1], levels, scheme);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (; i - lane < numel; i += stride) {
    bool flag = false;
    if (i < numel) {
      const float v = x[i];
      y[i] = dequantise(quantise(v, q), q);
      flag = is_inside(v, q);
    }
    const unsigned flags = __ballot_sync(0xffffffffu, flag);
    const int64_t byte = (i - lane) / 8 + lane;
    if (lane < 4 && byte * 8 < numel) inside[byte] = static_cast<uint8_t>(flags >> (8 * lane));
  }
}

}  // namespace

int update_range_cuda(const float* x, int64_t numel, float decay, float* ema, float* range,
                      int64_t* step, float* workspace, void* stream) {
  if (numel == 0) return kNoElements;
  const auto s = static_cast<cudaStream_t>(stream);
  const unsigned wanted = grid_for(numel);
  const int blocks = wanted < kRangeBlocks ? static_cast<int>(wanted) : kRangeBlocks;
  extremes_per_block<<<static_cast<unsigned>(blocks), kThreads, 0, s>>>(x, numel, workspace);
  move_range<<<1, kThreads, 0, s>>>(workspace, blocks, decay, ema, range, step);
  return launch_status();
}

int fake_quant_per_tensor_cuda(const float* x, int64_t numel, const float* range, int levels,
                               int scheme, float* y, uint8_t* inside, void* stream) {
  if (numel == 0) return kOk;
  fake_quant<<<grid_for(numel), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      x, numel, range, levels, scheme, y, inside);
  return launch_status();
}

}  // namespace micronet
