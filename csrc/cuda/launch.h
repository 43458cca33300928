// How kernels are launched. Needs only the CUDA runtime.
//
// Kernels are called by function, never by <<< >>>, so that a plain C++ compiler can read them and
// tests can run them on machines without a GPU (csrc/tests/emulator/cuda_on_host.h).
#ifndef MICRONET_CUDA_LAUNCH_H_
#define MICRONET_CUDA_LAUNCH_H_

#ifdef __CUDACC__
#include <cooperative_groups.h>
#include <cuda_runtime.h>
#endif

#include <cstdint>
#include <map>
#include <mutex>
#include <utility>

#include "include/core.h"

namespace micronet {

constexpr int kThreads = 256;
// Blocks that are to fit a multiprocessor, half of its threads, to hide its memory's latency.
constexpr int kBlocksAtOnce = 4;

// Blocks of a grid-stride loop over `items`, one a thread. The cap keeps a grid within a few waves
// of the widest device, and every thread of a full grid has several items to hide latency with.
static inline unsigned grid_for(int64_t items) {
  constexpr int64_t kMost = 4096;
  const int64_t wanted = (items + kThreads - 1) / kThreads;
  return static_cast<unsigned>(wanted < 1 ? 1 : wanted < kMost ? wanted : kMost);
}

static inline int status_of(cudaError_t error) { return error == cudaSuccess ? kOk : kDeviceError; }

// Queues kernel(args...) over `grid` blocks of kThreads threads.
template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), unsigned grid, void* stream, Arguments... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "one argument for each parameter");
  return [&](Parameters... exact) {
    void* list[] = {static_cast<void*>(&exact)...};
    return status_of(cudaLaunchKernel(kernel, dim3(grid), dim3(kThreads), list, 0,
                                      static_cast<cudaStream_t>(stream)));
  }(static_cast<Parameters>(arguments)...);
}

// How many blocks of a kernel run at once on the current device; the driver is asked once. 0 where
// it refuses.
inline unsigned blocks_at_once(const void* kernel) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, unsigned> known;
  int device = 0, processors = 0, each = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  const std::lock_guard<std::mutex> lock(mutex);
  unsigned& blocks = known[{kernel, device}];
  if (blocks == 0 &&
      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) == cudaSuccess &&
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, kThreads, 0) == cudaSuccess) {
    blocks = static_cast<unsigned>(processors * each);
  }
  return blocks;
}

// As `launch` for a kernel whose blocks wait for each other: no more of them than run at once, nor
// than `most`. The kernel has to be right for any number of blocks.
template <typename... Parameters, typename... Arguments>
int launch_cooperative(void (*kernel)(Parameters...), unsigned most, void* stream,
                       Arguments... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "one argument for each parameter");
  const unsigned together = blocks_at_once(reinterpret_cast<const void*>(kernel));
  if (together == 0) return kDeviceError;
  return [&](Parameters... exact) {
    void* list[] = {static_cast<void*>(&exact)...};
    return status_of(cudaLaunchCooperativeKernel(kernel, dim3(together < most ? together : most),
                                                 dim3(kThreads), list, 0,
                                                 static_cast<cudaStream_t>(stream)));
  }(static_cast<Parameters>(arguments)...);
}

}  // namespace micronet

#endif  // MICRONET_CUDA_LAUNCH_H_
