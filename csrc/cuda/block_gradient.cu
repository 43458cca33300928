// The way back through a block, on a CUDA device.

#include "cuda/block_runs.h"

namespace micronet {
namespace {

// The range that a gradient passes, as constants; without one everything passes.
struct Passes {
  bool all;
  Quantizer q;

  __device__ explicit Passes(const float* range) : all(range == nullptr), q() {
    if (!all) q = make_quantizer(range[0], range[1], 2, kAffine);
  }
  __device__ float operator()(float grad, float value) const {
    return all || is_inside(value, q) ? grad : 0.0f;
  }
};

// The gradient to z.
template <int kFunction>
__device__ __forceinline__ float gradient_at(const Block& block, const BlockGradient& g,
                                             const Passes& passes, int64_t i, int64_t channel) {
  const float z = preactivation_at(block, i, channel);
  float passed = passes(gradient_value(g, i), activate<kFunction>(z));
  if (g.mean_grad != nullptr) {
    const int64_t image = i / (block.positions * block.channels);
    passed += g.mean_grad[image * block.channels + channel];
  }
  return through<kFunction>(passed, z);
}

// The gradients to z of a run, from z.
template <int kFunction, bool kWhole>
__device__ __forceinline__ void load_gradients(const Block& block, const BlockGradient& g,
                                               const Passes& passes, const Run& run,
                                               const float (&z)[kEach], float (&dz)[kEach]) {
  float mean[kEach] = {};
  load_gradient<kWhole>(g, run, dz);
  if (g.mean_grad != nullptr) load_gates<kWhole>(block, g.mean_grad, run, mean);
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    float passed = passes(dz[e], activate<kFunction>(z[e]));
    if (g.mean_grad != nullptr) passed += mean[e];
    dz[e] = through<kFunction>(passed, z[e]);
  }
}

template <int kFunction, bool kWhole, typename T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    block_gradient(const Block block, const BlockGradient g, const float* k, T* out) {
  const Passes passes(g.range);
  const int64_t channels = block.channels;
  for_runs<kWhole>(block, [&](const Run& run) {
    float z[kEach], dz[kEach], factor[kEach];
    load_preactivations<kWhole>(block, run, z);
    load_gradients<kFunction, kWhole>(block, g, passes, run, z, dz);
    load_channels<kWhole>(block, k, run, factor);
#pragma unroll
    for (int e = 0; e < kEach; ++e) dz[e] = dz[e] * factor[e];
    load_accumulators<kWhole>(block, run, z);
    load_channels<kWhole>(block, k + channels, run, factor);
#pragma unroll
    for (int e = 0; e < kEach; ++e) z[e] = z[e] * factor[e];
    load_channels<kWhole>(block, k + 2 * channels, run, factor);
#pragma unroll
    for (int e = 0; e < kEach; ++e) dz[e] = dz[e] + (z[e] + factor[e]);
    store_run<kWhole>(dz, run, out);
  });
}

template <int kFunction>
__global__ void gradient_sums(const Block block, const BlockGradient g, double* partial) {
  const Passes passes(g.range);
  double first = 0.0, second = 0.0;
  for_parts(
      block,
      [&](int64_t row, int64_t channel) {
        const int64_t i = row * block.channels + channel;
        const float dz = gradient_at<kFunction>(block, g, passes, i, channel);
        first += dz;
        second += dz * accumulator_at(block, i);
      },
      [&](int64_t part, int64_t channel) {
        store_sums(first, second, part, channel, block.channels, partial);
        first = second = 0.0;
      });
}

template <int kFunction>
__global__ void gate_gradient(const Block block, const BlockGradient g, float* grad_a,
                              float* grad_gate) {
  const Passes passes(g.range);
  const int64_t columns = (block.channels + kLaneChannels - 1) / kLaneChannels;
  const int64_t lane = threadIdx.x / kLaneChannels;
  for (int64_t unit = blockIdx.x; unit < block.images * columns; unit += gridDim.x) {
    const int64_t image = unit / columns;
    const int64_t channel = unit % columns * kLaneChannels + threadIdx.x % kLaneChannels;
    const bool here = channel < block.channels;
    const float gate = here ? block.gate[image * block.channels + channel] : 0.0f;
    float sum = 0.0f;
    for (int64_t p = lane; p < block.positions && here; p += 16) {
      const int64_t i = (image * block.positions + p) * block.channels + channel;
      const float a = activate<kFunction>(preactivation_at(block, i, channel));
      const float passed = passes(gradient_value(g, i), a * gate);
      grad_a[i] = passed * gate;
      sum += passed * a;
    }
    const float total = over_lanes(sum);
    if (lane == 0 && here) grad_gate[image * block.channels + channel] = total;
  }
}

}  // namespace

int block_gradient_sums_cuda(const Block& block, const BlockGradient& gradient, double* partial,
                             double* sums, void* stream) {
  const int status = with_function(block.function, [&](auto f) {
    return launch(gradient_sums<f.value>, grid_for_parts(block), stream, block, gradient, partial);
  });
  return status == kOk ? add_parts(block, partial, sums, stream) : status;
}

int block_gradient_cuda(const Block& block, const BlockGradient& gradient, const float* k,
                        void* out, DType type, void* stream) {
  return with_function(block.function, [&](auto f) {
    return with_runs(block, {gradient.grad, gradient.mean_grad, k, out}, [&](auto whole) {
      return with_type(type, [&](auto* t) {
        using T = std::remove_pointer_t<decltype(t)>;
        return launch(block_gradient<f.value, whole.value, T>, grid_for_runs(block), stream, block,
                      gradient, k, static_cast<T*>(out));
      });
    });
  });
}

int block_gate_gradient_cuda(const Block& block, const BlockGradient& gradient, float* grad_a,
                             float* grad_gate, void* stream) {
  const int64_t columns = (block.channels + kLaneChannels - 1) / kLaneChannels;
  return with_function(block.function, [&](auto f) {
    return launch(gate_gradient<f.value>, grid_for(block.images * columns * kThreads), stream,
                  block, gradient, grad_a, grad_gate);
  });
}

}  // namespace micronet
