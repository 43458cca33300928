// Eight neighboring elements of a block at a time, moved 16 bytes at once where all can be.
#ifndef MICRONET_CUDA_BLOCK_RUNS_H_
#define MICRONET_CUDA_BLOCK_RUNS_H_

#include <algorithm>
#include <initializer_list>

#include "cuda/activate.h"
#include "cuda/block_values.h"
#include "cuda/divide.h"
#include "cuda/vector.h"

namespace micronet {

// The elements first..first + count - 1. In whole runs they are eight of one row, a position of an
// image, from `channel` on.
struct Run {
  int64_t first;
  int count;
  int64_t row, channel;
};

// How the elements of a block are shared out in runs. `whole`: eight channels of one row each, all
// of which can be moved 16 bytes at once.
struct Runs {
  bool whole;
  Divisor octets, positions;

  // `others`: what is read or written beside the block, 16 bytes at once.
  Runs(const Block& block, std::initializer_list<const void*> others)
      : whole(false),
        octets(std::max<int64_t>(1, block.channels / kEach)),
        positions(block.positions) {
    uintptr_t all = 0;  // the bits that any address has
    for (const void* p : others) all |= reinterpret_cast<uintptr_t>(p);
    const void* const own[] = {block.acc, block.scale, block.shift, block.gate};
    for (const void* p : own) all |= reinterpret_cast<uintptr_t>(p);
    whole = block.channels % kEach == 0 && all % 16 == 0 && block.numel() / kEach <= INT32_MAX;
  }

  // Calls body(whether runs are whole, as a constant).
  template <typename Body>
  int with(const Body& body) const {
    return whole ? body(std::true_type()) : body(std::false_type());
  }
};

// Calls body(run) for each of this thread's.
template <bool kWhole, typename Body>
__device__ __forceinline__ void for_runs(const Block& block, const Runs& runs, const Body& body) {
  const int64_t step = threads_of_grid();
  if constexpr (kWhole) {
    const int64_t all = block.numel() / kEach;
    for (int64_t i = first_of_thread(); i < all; i += step) {
      unsigned octet = static_cast<unsigned>(i);
      const int64_t row = runs.octets.divide(&octet);
      body(Run{i * kEach, kEach, row, octet * kEach});
    }
  } else {
    const int64_t numel = block.numel();
    for (int64_t first = first_of_thread() * kEach; first < numel; first += step * kEach) {
      const int64_t row = first / block.channels, left = numel - first;
      body(Run{first, left >= kEach ? kEach : static_cast<int>(left), row,
               first - row * block.channels});
    }
  }
}

static inline unsigned grid_for_runs(const Block& block) {
  return grid_for((block.numel() + kEach - 1) / kEach);
}

// Elements next to each other, by accesses of up to 16 bytes.
template <int kCount, typename T>
__device__ __forceinline__ void load_packets(const T* from, float (&v)[kCount]) {
  constexpr int kSize = Packet<T>::kSize < kCount ? Packet<T>::kSize : kCount;
  struct alignas(kSize * sizeof(T)) Part {
    T values[kSize];
  };
#pragma unroll
  for (int p = 0; p < kCount; p += kSize) {
    const Part part = reinterpret_cast<const Part*>(from)[p / kSize];
#pragma unroll
    for (int i = 0; i < kSize; ++i) v[p + i] = to_float(part.values[i]);
  }
}

// A run of elements [numel]; 0 beyond its end.
template <bool kWhole, int kCount, typename T>
__device__ __forceinline__ void load_run(const T* elements, const Run& run, float (&v)[kCount]) {
  if constexpr (kWhole) {
    load_packets(elements + run.first, v);
  } else {
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      v[e] = e < run.count ? to_float(elements[run.first + e]) : 0.0f;
    }
  }
}

template <bool kWhole, typename T>
__device__ __forceinline__ void store_run(const float (&v)[kEach], const Run& run, T* elements) {
  constexpr int kSize = Packet<T>::kSize;
  T* to = elements + run.first;
#pragma unroll
  for (int p = 0; p < kEach; p += kSize) {
    Packet<T> packet;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      from_float(v[p + i], &packet.values[i]);
      if (!kWhole && p + i < run.count) to[p + i] = packet.values[i];
    }
    if (kWhole) reinterpret_cast<Packet<T>*>(to)[p / kSize] = packet;
  }
}

template <bool kWhole, int kCount>
__device__ __forceinline__ void load_accumulators(const Block& block, const Run& run,
                                                  float (&v)[kCount]) {
  with_accumulators(block, [&](const auto* acc) { load_run<kWhole>(acc, run, v); });
}

template <bool kWhole, int kCount>
__device__ __forceinline__ void load_gradient(const BlockGradient& g, const Run& run,
                                              float (&v)[kCount]) {
  with_gradient(g, [&](const auto* grad) { load_run<kWhole>(grad, run, v); });
}

// The numbers [channels] of a run's elements.
template <bool kWhole>
__device__ __forceinline__ void load_channels(const Block& block, const float* of, const Run& run,
                                              float (&v)[kEach]) {
  if constexpr (kWhole) {
    load_packets(of + run.channel, v);
  } else {
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      v[e] = e < run.count ? of[(run.first + e) % block.channels] : 0.0f;
    }
  }
}

// The numbers [images, channels] of a run's elements.
template <bool kWhole, int kCount>
__device__ __forceinline__ void load_gates(const Block& block, const Runs& runs, const float* of,
                                           const Run& run, float (&v)[kCount]) {
  if constexpr (kWhole) {
    const int64_t image = runs.positions.quotient(static_cast<unsigned>(run.row));
    load_packets(of + image * block.channels + run.channel, v);
  } else {
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      const int64_t i = run.first + e, image = i / (block.positions * block.channels);
      v[e] = e < run.count ? of[image * block.channels + i % block.channels] : 0.0f;
    }
  }
}

template <bool kWhole>
__device__ __forceinline__ void load_preactivations(const Block& block, const Run& run,
                                                    float (&z)[kEach]) {
  float scale[kEach], shift[kEach];
  load_accumulators<kWhole>(block, run, z);
  load_channels<kWhole>(block, block.scale, run, scale);
  load_channels<kWhole>(block, block.shift, run, shift);
#pragma unroll
  for (int e = 0; e < kEach; ++e) z[e] = fmaf(z[e], scale[e], shift[e]);
}

template <int kFunction, bool kWhole>
__device__ __forceinline__ void load_values(const Block& block, const Runs& runs, const Run& run,
                                            float (&v)[kEach]) {
  load_preactivations<kWhole>(block, run, v);
  activate<kFunction>(v);
  if (block.gate == nullptr) return;
  float gate[kEach];
  load_gates<kWhole>(block, runs, block.gate, run, gate);
#pragma unroll
  for (int e = 0; e < kEach; ++e) v[e] = v[e] * gate[e];
}

}  // namespace micronet

#endif  // MICRONET_CUDA_BLOCK_RUNS_H_
