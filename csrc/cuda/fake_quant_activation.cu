// Rounding activations to one range on a CUDA device.

#include "cuda/extremes.h"
#include "cuda/rounding.h"

namespace micronet {
namespace {

// This block's share of x [numel] rounded to y [numel], its bits to inside [bytes_for(numel)].
template <bool kLookUp, bool kObserved, typename T>
__device__ __forceinline__ Extremes round_share(const T* __restrict__ x, int64_t numel,
                                                const Quantizer& q, T* __restrict__ y,
                                                uint8_t* __restrict__ inside) {
  __shared__ float table[kTableSize];
  if (kLookUp) fill_table(q, table);
  Extremes seen;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  for_tiles(numel, is_aligned(x) && is_aligned(y), [&](int64_t first, int count, auto whole) {
    float v[kEach], rounded[kEach];
    load<whole.value>(x + first, count, lane, v);
    if (kObserved) seen.add(v);
#pragma unroll
    for (int e = 0; e < kEach; ++e) rounded[e] = value_of<kLookUp>(v[e], q, table);
    store<whole.value>(rounded, y + first, count, lane);
    store_bits<T>(inside_of(v, q), inside + first / 8, count, lane);
  });
  return seen;
}

template <bool kLookUp, typename T>
__global__ void fake_quant(const T* __restrict__ x, int64_t numel, const float* __restrict__ range,
                           int levels, int scheme, T* __restrict__ y,
                           uint8_t* __restrict__ inside) {
  const Quantizer q = make_quantizer(range[0], range[1], levels, scheme);
  round_share<kLookUp, false>(x, numel, q, y, inside);
}

// Cooperative. partial [gridDim.x, 2], extremes [2] and step [1] in device memory. Before the first
// step there is no range yet, and x is read twice.
template <bool kLookUp, typename T>
__global__ void fake_quant_observed(const T* __restrict__ x, int64_t numel, const float* range,
                                    const int64_t* step, int levels, int scheme, T* __restrict__ y,
                                    uint8_t* __restrict__ inside, float* extremes, float* partial) {
  float lo = range[0], hi = range[1];
  if (*step <= 0) {
    publish(observe(x, numel), partial);
    const Extremes all = gather(partial);
    lo = all.lo();
    hi = all.hi();
    cooperative_groups::this_grid().sync();  // all have read, and may write again
  }
  const Quantizer q = make_quantizer(lo, hi, levels, scheme);
  publish_extremes(round_share<kLookUp, true>(x, numel, q, y, inside), partial, extremes);
}

}  // namespace

int fake_quant_per_tensor_cuda(const void* x, DType type, int64_t numel, const float* range,
                               int levels, int scheme, void* y, uint8_t* inside, void* stream) {
  if (numel == 0) return kOk;
  return with_type(type, [&](auto* t) {
    using T = std::remove_pointer_t<decltype(t)>;
    const auto kernel = levels <= kMostLookedUp ? fake_quant<true, T> : fake_quant<false, T>;
    return launch(kernel, grid_for_tiles(numel), stream, static_cast<const T*>(x), numel, range,
                  levels, scheme, static_cast<T*>(y), inside);
  });
}

int fake_quant_per_tensor_observed_cuda(const void* x, DType type, int64_t numel,
                                        const float* range, const int64_t* step, int levels,
                                        int scheme, void* y, uint8_t* inside, float* extremes,
                                        float* workspace, void* stream) {
  if (numel == 0) return kNoElements;
  return with_type(type, [&](auto* t) {
    using T = std::remove_pointer_t<decltype(t)>;
    const auto kernel =
        levels <= kMostLookedUp ? fake_quant_observed<true, T> : fake_quant_observed<false, T>;
    return launch_cooperative(kernel, observing_grid(numel), stream, static_cast<const T*>(x),
                              numel, range, step, levels, scheme, static_cast<T*>(y), inside,
                              extremes, workspace);
  });
}

}  // namespace micronet
