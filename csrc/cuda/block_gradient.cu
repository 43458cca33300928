// The way back through a block, on a CUDA device.

#include "cuda/block_columns.h"
#include "cuda/block_lanes.h"

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

// From the gradients to the values, as read, to those to z. `mean`: what is added to each.
template <int kFunction, int kCount>
__device__ __forceinline__ void pass_back(const Passes& passes, const float (&z)[kCount],
                                          const float (&mean)[kCount], float (&dz)[kCount]) {
  if constexpr (kIsSmooth<kFunction>) {
    float a[kCount], slopes[kCount];
    activate<kFunction>(z, a, slopes);
#pragma unroll
    for (int e = 0; e < kCount; ++e) dz[e] = (passes(dz[e], a[e]) + mean[e]) * slopes[e];
  } else {
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      dz[e] = through<kFunction>(passes(dz[e], activate<kFunction>(z[e])) + mean[e], z[e]);
    }
  }
}

// The gradients to z of a run, from z; dz are those to the values.
template <int kFunction, bool kWhole, int kCount>
__device__ __forceinline__ void pass_back(const Block& block, const BlockGradient& g,
                                          const Runs& runs, const Passes& passes, const Run& run,
                                          const float (&z)[kCount], float (&dz)[kCount]) {
  float mean[kCount];
  if (g.mean_grad != nullptr) {
    load_gates<kWhole>(block, runs, g.mean_grad, run, mean);
  } else {
    // Adding it changes no number, not even the sign of a zero.
#pragma unroll
    for (int e = 0; e < kCount; ++e) mean[e] = -0.0f;
  }
  pass_back<kFunction>(passes, z, mean, dz);
}

template <int kFunction, bool kWhole, typename T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    block_gradient(const Block block, const BlockGradient g, const Runs runs, const float* k,
                   T* out) {
  const Passes passes(g.range);
  const int64_t channels = block.channels;
  for_runs<kWhole>(block, runs, [&](const Run& run) {
    float z[kEach], dz[kEach], factor[kEach];
    load_preactivations<kWhole>(block, run, z);
    load_gradient<kWhole>(g, run, dz);
    pass_back<kFunction, kWhole>(block, g, runs, passes, run, z, dz);
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

// The channels of a thread: so few that the registers of their sums leave room for enough threads.
template <bool kWhole>
constexpr int kSummed = kWhole ? 4 : 2;

template <int kFunction, bool kWhole>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    gradient_sums(const Block block, const BlockGradient g, const Runs runs,
                  const Columns<kSummed<kWhole>> columns, double* partial) {
  const Passes passes(g.range);
  constexpr int kCount = kSummed<kWhole>;
  const Strip<kCount> strip(columns);
  float scale[kCount], shift[kCount];
  double first[kCount] = {}, second[kCount] = {};
  strip.template load_channels<kWhole>(block.scale, scale);
  strip.template load_channels<kWhole>(block.shift, shift);
  strip.for_rows([&](const Run& run) {
    float acc[kCount], z[kCount], dz[kCount];
    load_accumulators<kWhole>(block, run, acc);
    load_gradient<kWhole>(g, run, dz);
#pragma unroll
    for (int e = 0; e < kCount; ++e) z[e] = fmaf(acc[e], scale[e], shift[e]);
    pass_back<kFunction, kWhole>(block, g, runs, passes, run, z, dz);
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      if (!kWhole && e >= run.count) continue;
      first[e] += dz[e];
      second[e] += dz[e] * acc[e];
    }
  });
  strip.store(first, 0, partial);
  strip.store(second, 1, partial);
}

template <int kFunction>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    gate_gradient(const Block block, const BlockGradient g, float* grad_a, float* grad_gate) {
  const Passes passes(g.range);
  for_lanes(block, [&](const Lane& lane) {
    const float gate = lane.here ? block.gate[lane.index(block)] : 0.0f;
    float sum = 0.0f;
    lane.for_stretches(block, [&](const Stretch& s) {
      float a[kEach], grad[kEach];
      load_gradient(g, s, grad);
      load_preactivations(block, s, lane.channel, a);
      activate<kFunction>(a);
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        if (e >= s.count) continue;
        const float passed = passes(grad[e], a[e] * gate);
        grad_a[s.at(e)] = passed * gate;
        sum += passed * a[e];
      }
    });
    const float total = over_lanes(sum);
    if (lane.number == 0 && lane.here) grad_gate[lane.index(block)] = total;
  });
}

}  // namespace

int block_gradient_sums_cuda(const Block& block, const BlockGradient& gradient, double* partial,
                             double* sums, void* stream) {
  const Runs runs(block, {gradient.grad, gradient.mean_grad});
  const int status = with_function(block.function, [&](auto f) {
    return runs.with([&](auto whole) {
      const Columns<kSummed<whole.value>> columns(block);
      return launch(gradient_sums<f.value, whole.value>, columns.grid(block), stream, block,
                    gradient, runs, columns, partial);
    });
  });
  return status == kOk ? add_parts(block, partial, sums, stream) : status;
}

int block_gradient_cuda(const Block& block, const BlockGradient& gradient, const float* k,
                        void* out, DType type, void* stream) {
  const Runs runs(block, {gradient.grad, gradient.mean_grad, k, out});
  return with_function(block.function, [&](auto f) {
    return runs.with([&](auto whole) {
      return with_type(type, [&](auto* t) {
        using T = std::remove_pointer_t<decltype(t)>;
        return launch(block_gradient<f.value, whole.value, T>, grid_for_runs(block), stream, block,
                      gradient, runs, k, static_cast<T*>(out));
      });
    });
  });
}

int block_gate_gradient_cuda(const Block& block, const BlockGradient& gradient, float* grad_a,
                             float* grad_gate, void* stream) {
  return with_function(block.function, [&](auto f) {
    return launch(gate_gradient<f.value>, grid_for_lanes(block), stream, block, gradient, grad_a,
                  grad_gate);
  });
}

}  // namespace micronet
