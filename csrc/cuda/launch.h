// Sizes of launches. Needs only the CUDA runtime.
#ifndef MICRONET_CUDA_LAUNCH_H_
#define MICRONET_CUDA_LAUNCH_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "../core.h"

namespace micronet {

constexpr int kThreads = 256;

// Blocks of a grid-stride loop over numel elements. The cap keeps a grid within a few waves of
// the widest device, and every thread of a full grid has several elements to hide latency with.
inline unsigned grid_for(int64_t numel) {
  constexpr int64_t kMost = 4096;
  const int64_t wanted = (numel + kThreads - 1) / kThreads;
  return static_cast<unsigned>(wanted < kMost ? wanted : kMost);
}

inline int launch_status() { return cudaGetLastError() == cudaSuccess ? kOk : kDeviceError; }

}  // namespace micronet

#endif  // MICRONET_CUDA_LAUNCH_H_
