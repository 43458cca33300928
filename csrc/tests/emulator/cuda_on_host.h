// Runs CUDA kernels on the CPU, for tests on machines without a GPU.
//
//   g++ -std=c++17 -ffp-contract=off -I csrc -x c++ -include cuda_on_host.h kernel.cu
//
// What kernels may use is what is defined here. Blocks of an ordinary grid run one after the other,
// those of a cooperative grid on a thread each.
#ifndef MICRONET_TESTS_EMULATOR_CUDA_ON_HOST_H_
#define MICRONET_TESTS_EMULATOR_CUDA_ON_HOST_H_

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/half.h"
#include "tests/emulator/block.h"
#include "tests/emulator/tensor_core.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
// One copy for each block, whose threads share a thread of the host.
#define __shared__ static thread_local

struct uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace cuda_on_host {

template <typename... P, size_t... I>
auto call_of(void (*kernel)(P...), void** list, std::index_sequence<I...>) {
  return [kernel, list] { kernel(*static_cast<P*>(list[I])...); };
}

}  // namespace cuda_on_host

#define threadIdx (cuda_on_host::Block::current->thread())
#define blockIdx (cuda_on_host::Block::current->index)
#define blockDim (cuda_on_host::Block::current->size)
#define gridDim (cuda_on_host::Block::current->grid)

// The runtime ---------------------------------------------------------------------------------

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 3;
  return cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, size_t) {
  *blocks = 1;
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

template <typename... P>
cudaError_t cudaLaunchKernel(void (*kernel)(P...), dim3 grid, dim3 block, void** list, size_t,
                             cudaStream_t) {
  if (grid.x == 0) return cudaErrorInvalidValue;
  cuda_on_host::run_grid(grid, block,
                         cuda_on_host::call_of(kernel, list, std::index_sequence_for<P...>()));
  return cudaSuccess;
}

template <typename... P>
cudaError_t cudaLaunchCooperativeKernel(void (*kernel)(P...), dim3 grid, dim3 block, void** list,
                                        size_t, cudaStream_t) {
  if (grid.x == 0) return cudaErrorInvalidValue;
  cuda_on_host::run_cooperative_grid(
      grid, block, cuda_on_host::call_of(kernel, list, std::index_sequence_for<P...>()));
  return cudaSuccess;
}

// What a thread may call ----------------------------------------------------------------------

inline void __syncthreads() { cuda_on_host::Block::current->sync_threads(); }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() {}

template <typename T>
using Exchanged = cuda_on_host::Block::Exchange<T>;

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  Exchanged<int>(cuda_on_host::Block::current, mask, 0);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return Exchanged<T>(cuda_on_host::Block::current, mask, value)
      .seen(static_cast<unsigned>(lane) % 32);
}

// Beyond the warp's ends a lane keeps its own value.
template <typename T>
T cuda_on_host_shuffle(unsigned mask, T value, unsigned from) {
  const Exchanged<T> all(cuda_on_host::Block::current, mask, value);
  return from < 32 ? all.seen(from) : value;
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return cuda_on_host_shuffle(mask, value,
                              cuda_on_host::Block::current->lane() ^ static_cast<unsigned>(lanes));
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes) {
  return cuda_on_host_shuffle(mask, value, cuda_on_host::Block::current->lane() + lanes);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes) {
  return cuda_on_host_shuffle(mask, value, cuda_on_host::Block::current->lane() - lanes);
}

inline unsigned __ballot_sync(unsigned mask, int flag) {
  return Exchanged<int>(cuda_on_host::Block::current, mask, flag).set();
}
inline int __any_sync(unsigned mask, int flag) { return __ballot_sync(mask, flag) != 0; }
inline int __all_sync(unsigned mask, int flag) { return __ballot_sync(mask, flag) == mask; }

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }

inline unsigned __float_as_uint(float v) { return micronet::word_of(v); }
inline int __float_as_int(float v) { return static_cast<int>(micronet::word_of(v)); }
inline float __uint_as_float(unsigned v) { return micronet::float_of(v); }
inline float __int_as_float(int v) { return micronet::float_of(static_cast<unsigned>(v)); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }

template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
T __ldcs(const T* p) {
  return *p;
}
template <typename T>
T __ldcg(const T* p) {
  return *p;
}
template <typename T>
void __stcs(T* p, T v) {
  *p = v;
}
template <typename T>
void __stcg(T* p, T v) {
  *p = v;
}

template <typename T>
T atomicAdd(T* p, T v) {
  static_assert(std::is_integral<T>::value, "a sum of floats would depend on the order");
  return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
template <typename T>
T atomicOr(T* p, T v) {
  return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST);
}
template <typename T>
T atomicAnd(T* p, T v) {
  return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST);
}
template <typename T>
T atomicExch(T* p, T v) {
  return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
}
template <typename T>
T atomicCAS(T* p, T expected, T v) {
  __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  return expected;
}
// Writes v where wanted(what is there) says so.
template <typename T, typename Wanted>
T exchange_where(T* p, T v, const Wanted& wanted) {
  T old = __atomic_load_n(p, __ATOMIC_SEQ_CST);
  while (wanted(old) &&
         !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
  }
  return old;
}
template <typename T>
T atomicMax(T* p, T v) {
  return exchange_where(p, v, [v](T old) { return old < v; });
}
template <typename T>
T atomicMin(T* p, T v) {
  return exchange_where(p, v, [v](T old) { return v < old; });
}

namespace cooperative_groups {
struct Grid {
  void sync() const { cuda_on_host::Block::current->sync_grid(); }
};
inline Grid this_grid() { return {}; }
}  // namespace cooperative_groups

// Two-byte floats -----------------------------------------------------------------------------

using __nv_bfloat16 = micronet::BFloat16;
using __half = micronet::Float16;

inline float __bfloat162float(__nv_bfloat16 v) { return micronet::widen(v); }
inline float __half2float(__half v) { return micronet::widen(v); }
inline __nv_bfloat16 __float2bfloat16_rn(float v) {
  __nv_bfloat16 out;
  micronet::narrow(v, &out);
  return out;
}
inline __half __float2half_rn(float v) {
  __half out;
  micronet::narrow(v, &out);
  return out;
}

#endif  // MICRONET_TESTS_EMULATOR_CUDA_ON_HOST_H_
