// What follows a convolution in a block, on a CUDA device.

#include "cuda/block_columns.h"
#include "cuda/block_lanes.h"
#include "cuda/extremes.h"

namespace micronet {
namespace {

template <int kFunction, bool kWhole>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    block_values(const Block block, const Runs runs, float* values) {
  for_runs<kWhole>(block, runs, [&](const Run& run) {
    float v[kEach];
    load_values<kFunction, kWhole>(block, runs, run, v);
    store_run<kWhole>(v, run, values);
  });
}

// A thread makes eight codes of kBits each; those beyond the end are 0.
template <int kBits, int kFunction, bool kWhole>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    block_codes(const Block block, const Runs runs, const Coding coding, uint8_t* codes) {
  constexpr int kInWord = 32 / kBits;
  const Quantizer q = coding.quantizer();
  const float shift = kShift - q.code_min;
  for_runs<kWhole>(block, runs, [&](const Run& run) {
    float v[kEach];
    load_values<kFunction, kWhole>(block, runs, run, v);
    unsigned packed[kBits / 4] = {};
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const float slot = quantize(v[e], q) + shift;
      // The low bits of kShift + code are the code.
      const unsigned bits = __float_as_uint(slot == slot && e < run.count ? slot : kShift);
      packed[e / kInWord] |= (bits & ((1u << kBits) - 1)) << (e % kInWord * kBits);
    }
    uint8_t* to = codes + run.first * kBits / 8;
    if constexpr (kWhole && kBits == 4) {
      *reinterpret_cast<unsigned*>(to) = packed[0];
    } else if constexpr (kWhole) {
      *reinterpret_cast<uint2*>(to) = make_uint2(packed[0], packed[1]);
    } else {
#pragma unroll
      for (int i = 0; i < kBits; ++i) {
        if (8 * i < run.count * kBits) to[i] = static_cast<uint8_t>(packed[i / 4] >> (i % 4 * 8));
      }
    }
  });
}

// Cooperative; partial [gridDim.x, 2].
template <int kFunction, bool kWhole>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    block_extremes(const Block block, const Runs runs, float* partial, float* extremes) {
  Extremes seen;
  for_runs<kWhole>(block, runs, [&](const Run& run) {
    float v[kEach];
    load_values<kFunction, kWhole>(block, runs, run, v);
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      if (e < run.count) seen.add(v[e]);
    }
  });
  publish_extremes(seen, partial, extremes);
}

template <int kFunction>
__global__ void block_means(const Block block, float* means) {
  for_lanes(block, [&](const Lane& lane) {
    float sum = 0.0f;
    lane.for_stretches(block, [&](const Stretch& s) {
      float v[kEach];
      load_preactivations(block, s, lane.channel, v);
      activate<kFunction>(v);
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        if (e < s.count) sum += v[e];
      }
    });
    const float total = over_lanes(sum);
    if (lane.number == 0 && lane.here) {
      means[lane.index(block)] = total / static_cast<float>(block.positions);
    }
  });
}

// Sums of whole numbers, exact like those in double precision: a thread has fewer rows than 2^16.
template <bool kShort>
using Sum = std::conditional_t<kShort, int64_t, double>;

template <bool kWhole>
__device__ __forceinline__ void load_numbers(const Block& block, const Run& run, int (&v)[kEach]) {
  const int16_t* from = static_cast<const int16_t*>(block.acc) + run.first;
  Packet<int16_t> packet;
  if (kWhole) packet = *reinterpret_cast<const Packet<int16_t>*>(from);
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    v[e] = kWhole ? packet.values[e] : e < run.count ? from[e] : 0;
  }
}
template <bool kWhole>
__device__ __forceinline__ void load_numbers(const Block& block, const Run& run,
                                             double (&v)[kEach]) {
  float values[kEach];
  load_accumulators<kWhole>(block, run, values);
#pragma unroll
  for (int e = 0; e < kEach; ++e) v[e] = values[e];
}

template <bool kWhole, bool kShort>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    moments(const Block block, const Columns<kEach> columns, double* partial) {
  const Strip<kEach> strip(columns);
  Sum<kShort> first[kEach] = {}, second[kEach] = {};
  strip.for_rows([&](const Run& run) {
    using Number = std::conditional_t<kShort, int, double>;
    Number v[kEach];
    load_numbers<kWhole>(block, run, v);
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      first[e] += v[e];
      second[e] += v[e] * v[e];
    }
  });
  double sums[kEach];
#pragma unroll
  for (int e = 0; e < kEach; ++e) sums[e] = static_cast<double>(first[e]);
  strip.store(sums, 0, partial);
#pragma unroll
  for (int e = 0; e < kEach; ++e) sums[e] = static_cast<double>(second[e]);
  strip.store(sums, 1, partial);
}

// A block takes eight sums, and every 32nd part a thread.
constexpr int kSums = 8, kPartLanes = kThreads / kSums;

__global__ void add_all_parts(const double* partial, int64_t parts, int64_t count, double* sums) {
  __shared__ double lanes[kPartLanes][kSums];
  const int lane = static_cast<int>(threadIdx.x) / kSums, mine = threadIdx.x % kSums;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSums + mine;
  double sum = 0.0;
#pragma unroll 8
  for (int64_t part = lane; part < parts; part += kPartLanes) {
    sum += i < count ? partial[part * count + i] : 0.0;
  }
  lanes[lane][mine] = sum;
  __syncthreads();
  if (lane != 0 || i >= count) return;
  for (int other = 1; other < kPartLanes; ++other) sum += lanes[other][mine];
  sums[i] = sum;
}

}  // namespace

// Enough parts for a few blocks of every multiprocessor, and not so few rows a part that adding the
// parts takes longer than the rows.
int64_t block_parts_cuda(const Block& block) {
  constexpr int64_t kLeastRows = 128, kMostParts = 1024;
  const int64_t parts = (block.images * block.positions + kLeastRows - 1) / kLeastRows;
  return parts < kMostParts ? parts : kMostParts;
}

int add_parts(const Block& block, const double* partial, double* sums, void* stream) {
  const int64_t count = 2 * block.channels;
  return launch(add_all_parts, static_cast<unsigned>((count + kSums - 1) / kSums), stream, partial,
                block_parts_cuda(block), count, sums);
}

int block_moments_cuda(const Block& block, double* partial, double* sums, void* stream) {
  const Runs runs(block, {});
  const Columns<kEach> columns(block);
  const auto launched = [&](auto is_short) {
    return runs.with([&](auto whole) {
      return launch(moments<whole.value, is_short.value>, columns.grid(block), stream, block,
                    columns, partial);
    });
  };
  const int status =
      block.type == kInt16 ? launched(std::true_type()) : launched(std::false_type());
  return status == kOk ? add_parts(block, partial, sums, stream) : status;
}

int block_extremes_cuda(const Block& block, float* workspace, float* extremes, void* stream) {
  const Runs runs(block, {});
  return with_function(block.function, [&](auto f) {
    return runs.with([&](auto whole) {
      return launch_cooperative(block_extremes<f.value, whole.value>, observing_grid(block.numel()),
                                stream, block, runs, workspace, extremes);
    });
  });
}

int block_codes_cuda(const Block& block, const Coding& coding, uint8_t* codes, void* stream) {
  const Runs runs(block, {codes});
  return with_function(block.function, [&](auto f) {
    return runs.with([&](auto whole) {
      const auto kernel = are_half_bytes(coding.levels) ? block_codes<4, f.value, whole.value>
                                                        : block_codes<8, f.value, whole.value>;
      return launch(kernel, grid_for_runs(block), stream, block, runs, coding, codes);
    });
  });
}

int block_values_cuda(const Block& block, float* values, void* stream) {
  const Runs runs(block, {values});
  return with_function(block.function, [&](auto f) {
    return runs.with([&](auto whole) {
      return launch(block_values<f.value, whole.value>, grid_for_runs(block), stream, block, runs,
                    values);
    });
  });
}

int block_means_cuda(const Block& block, float* means, void* stream) {
  return with_function(block.function, [&](auto f) {
    return launch(block_means<f.value>, grid_for_lanes(block), stream, block, means);
  });
}

}  // namespace micronet
