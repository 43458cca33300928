// The way back through a block, on a CUDA device.

#include "cuda/block_columns.h"
#include "cuda/block_lanes.h"
#include "cuda/rounding.h"

namespace micronet {
namespace {

// Where a gradient passes, as constants; without a range it does everywhere. A learned one is
// given.
template <bool kIsLearned>
struct Passes {
  bool all;
  Quantizer q;

  __device__ explicit Passes(const Coding& coding)
      : all(!kIsLearned && coding.range == nullptr), q() {
    if (!all) q = coding.quantizer();
    q.is_learned = kIsLearned;
  }
  __device__ float operator()(float grad, float value) const {
    return all || is_inside(value, q) ? grad : 0.0f;
  }
};

// Adds what each position of an image gets of the gradient to the mean.
template <bool kWhole, int kCount>
__device__ __forceinline__ void add_mean(const Block& block, const BlockGradient& g,
                                         const Runs& runs, const Run& run, float (&grad)[kCount]) {
  if (g.mean_grad == nullptr) return;
  float mean[kCount];
  load_gates<kWhole>(block, runs, g.mean_grad, run, mean);
#pragma unroll
  for (int e = 0; e < kCount; ++e) grad[e] = grad[e] + mean[e];
}

// The gradients to z of a run, from z; dz are those to the values.
template <int kFunction, bool kWhole, bool kIsLearned, int kCount>
__device__ __forceinline__ void pass_back(const Block& block, const BlockGradient& g,
                                          const Runs& runs, const Passes<kIsLearned>& passes,
                                          const Run& run, const float (&z)[kCount],
                                          float (&dz)[kCount]) {
  if constexpr (kIsSmooth<kFunction>) {
    float a[kCount], slopes[kCount];
    activate<kFunction>(z, a, slopes);
#pragma unroll
    for (int e = 0; e < kCount; ++e) dz[e] = passes(dz[e], a[e]);
    add_mean<kWhole>(block, g, runs, run, dz);
#pragma unroll
    for (int e = 0; e < kCount; ++e) dz[e] = dz[e] * slopes[e];
  } else {
#pragma unroll
    for (int e = 0; e < kCount; ++e) dz[e] = passes(dz[e], activate<kFunction>(z[e]));
    add_mean<kWhole>(block, g, runs, run, dz);
#pragma unroll
    for (int e = 0; e < kCount; ++e) dz[e] = through<kFunction>(dz[e], z[e]);
  }
}

template <int kFunction, bool kIsLearned, bool kWhole, typename T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    block_gradient(const Block block, const BlockGradient g, const Runs runs, const float* k,
                   T* out) {
  const Passes<kIsLearned> passes(g.coding);
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
template <int kFunction, bool kIsLearned, bool kWhole>
constexpr int kSummed = kWhole && !(kIsSmooth<kFunction> && kIsLearned) ? 4 : 2;

template <int kFunction, bool kIsLearned, bool kWhole>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    gradient_sums(const Block block, const BlockGradient g, const Runs runs,
                  const Columns<kSummed<kFunction, kIsLearned, kWhole>> columns, double* partial) {
  const Passes<kIsLearned> passes(g.coding);
  constexpr int kCount = kSummed<kFunction, kIsLearned, kWhole>;
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

// The values of a run from their preactivations.
template <int kFunction, bool kWhole, int kCount>
__device__ __forceinline__ void make_values(const Block& block, const Runs& runs, const Run& run,
                                            float (&v)[kCount]) {
  activate<kFunction>(v);
  if (block.gate == nullptr) return;
  float gate[kCount];
  load_gates<kWhole>(block, runs, block.gate, run, gate);
#pragma unroll
  for (int e = 0; e < kCount; ++e) v[e] = v[e] * gate[e];
}

// partial [parts, 2, C]: what a learned step and its offset get of each value.
template <int kFunction, bool kWhole>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    step_sums(const Block block, const BlockGradient g, const Runs runs,
              const Columns<kSummed<kFunction, false, kWhole>> columns, double* partial) {
  const Quantizer q = g.coding.quantizer();
  constexpr int kCount = kSummed<kFunction, false, kWhole>;
  const Strip<kCount> strip(columns);
  float scale[kCount], shift[kCount];
  double steps[kCount] = {}, offsets[kCount] = {};
  strip.template load_channels<kWhole>(block.scale, scale);
  strip.template load_channels<kWhole>(block.shift, shift);
  strip.for_rows([&](const Run& run) {
    float v[kCount], grad[kCount];
    load_accumulators<kWhole>(block, run, v);
    load_gradient<kWhole>(g, run, grad);
#pragma unroll
    for (int e = 0; e < kCount; ++e) v[e] = fmaf(v[e], scale[e], shift[e]);
    make_values<kFunction, kWhole>(block, runs, run, v);
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      if (!kWhole && e >= run.count) continue;
      const bool inside = is_inside(v[e], q);
      steps[e] += grad[e] * learned_factor(v[e], q);
      offsets[e] += inside ? 0.0f : grad[e];
    }
  });
  strip.store(steps, 0, partial);
  strip.store(offsets, 1, partial);
}

template <int kFunction, bool kIsLearned>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    gate_gradient(const Block block, const BlockGradient g, float* grad_a, float* grad_gate) {
  const Passes<kIsLearned> passes(g.coding);
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

// Calls body(the function, whether the step is learned) as constants.
template <typename Body>
int with_rounding(const Block& block, const BlockGradient& gradient, const Body& body) {
  return with_function(block.function, [&](auto f) {
    const Coding& coding = gradient.coding;
    return coding.range != nullptr && coding.scheme == kLearned ? body(f, std::true_type())
                                                                : body(f, std::false_type());
  });
}

}  // namespace

int block_gradient_sums_cuda(const Block& block, const BlockGradient& gradient, double* partial,
                             double* sums, void* stream) {
  const Runs runs(block, {gradient.grad, gradient.mean_grad});
  const int status = with_rounding(block, gradient, [&](auto f, auto learned) {
    return runs.with([&](auto whole) {
      const Columns<kSummed<f.value, learned.value, whole.value>> columns(block);
      return launch(gradient_sums<f.value, learned.value, whole.value>, columns.grid(block), stream,
                    block, gradient, runs, columns, partial);
    });
  });
  return status == kOk ? add_parts(block, partial, sums, stream) : status;
}

int block_step_sums_cuda(const Block& block, const BlockGradient& gradient, double* partial,
                         double* sums, void* stream) {
  const Runs runs(block, {gradient.grad});
  const int status = with_function(block.function, [&](auto f) {
    return runs.with([&](auto whole) {
      const Columns<kSummed<f.value, false, whole.value>> columns(block);
      return launch(step_sums<f.value, whole.value>, columns.grid(block), stream, block, gradient,
                    runs, columns, partial);
    });
  });
  return status == kOk ? add_parts(block, partial, sums, stream) : status;
}

int block_gradient_cuda(const Block& block, const BlockGradient& gradient, const float* k,
                        void* out, DType type, void* stream) {
  const Runs runs(block, {gradient.grad, gradient.mean_grad, k, out});
  return with_rounding(block, gradient, [&](auto f, auto learned) {
    return runs.with([&](auto whole) {
      return with_type(type, [&](auto* t) {
        using T = std::remove_pointer_t<decltype(t)>;
        return launch(block_gradient<f.value, learned.value, whole.value, T>, grid_for_runs(block),
                      stream, block, gradient, runs, k, static_cast<T*>(out));
      });
    });
  });
}

int block_gate_gradient_cuda(const Block& block, const BlockGradient& gradient, float* grad_a,
                             float* grad_gate, void* stream) {
  return with_rounding(block, gradient, [&](auto f, auto learned) {
    return launch(gate_gradient<f.value, learned.value>, grid_for_lanes(block), stream, block,
                  gradient, grad_a, grad_gate);
  });
}

}  // namespace micronet
