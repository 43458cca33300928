// What follows a convolution in a block, on a CUDA device.

#include "cuda/block_runs.h"
#include "cuda/extremes.h"

namespace micronet {
namespace {

template <int kFunction, bool kWhole>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    block_values(const Block block, float* values) {
  for_runs<kWhole>(block, [&](const Run& run) {
    float v[kEach];
    load_values<kFunction, kWhole>(block, run, v);
    store_run<kWhole>(v, run, values);
  });
}

// A thread makes a word of eight codes; those beyond the end are 0.
template <int kFunction, bool kWhole>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    block_codes(const Block block, const float* range, int levels, uint8_t* codes) {
  const Quantizer q = make_quantizer(range[0], range[1], levels, kAffine);
  for_runs<kWhole>(block, [&](const Run& run) {
    float v[kEach];
    load_values<kFunction, kWhole>(block, run, v);
    unsigned packed = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const float code = e < run.count ? quantize(v[e], q) : 0.0f;
      packed |= static_cast<unsigned>(code == code ? code : 0.0f) << (4 * e);
    }
    uint8_t* to = codes + run.first / 2;
    if (kWhole) *reinterpret_cast<unsigned*>(to) = packed;
    for (int i = 0; 2 * i < run.count && !kWhole; ++i)
      to[i] = static_cast<uint8_t>(packed >> (8 * i));
  });
}

// Cooperative; partial [gridDim.x, 2].
template <int kFunction, bool kWhole>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    block_extremes(const Block block, float* partial, float* extremes) {
  Extremes seen;
  for_runs<kWhole>(block, [&](const Run& run) {
    float v[kEach];
    load_values<kFunction, kWhole>(block, run, v);
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      if (e < run.count) seen.add(v[e]);
    }
  });
  publish_extremes(seen, partial, extremes);
}

template <int kFunction>
__global__ void block_means(const Block block, float* means) {
  const int64_t columns = (block.channels + kLaneChannels - 1) / kLaneChannels;
  const int64_t lane = threadIdx.x / kLaneChannels;
  for (int64_t unit = blockIdx.x; unit < block.images * columns; unit += gridDim.x) {
    const int64_t image = unit / columns;
    const int64_t channel = unit % columns * kLaneChannels + threadIdx.x % kLaneChannels;
    float sum = 0.0f;
    for (int64_t p = lane; p < block.positions && channel < block.channels; p += 16) {
      const int64_t i = (image * block.positions + p) * block.channels + channel;
      sum += activate<kFunction>(preactivation_at(block, i, channel));
    }
    const float total = over_lanes(sum);
    if (lane == 0 && channel < block.channels) {
      means[image * block.channels + channel] = total / static_cast<float>(block.positions);
    }
  }
}

__global__ void moments(const Block block, double* partial) {
  double first = 0.0, second = 0.0;
  for_parts(
      block,
      [&](int64_t row, int64_t channel) {
        const double v = accumulator_at(block, row * block.channels + channel);
        first += v;
        second += v * v;
      },
      [&](int64_t part, int64_t channel) {
        store_sums(first, second, part, channel, block.channels, partial);
        first = second = 0.0;
      });
}

__global__ void add_all_parts(const double* partial, int64_t parts, int64_t count, double* sums) {
  for (int64_t i = first_of_thread(); i < count; i += threads_of_grid()) {
    double sum = 0.0;
    for (int64_t part = 0; part < parts; ++part) sum += partial[part * count + i];
    sums[i] = sum;
  }
}

}  // namespace

int64_t block_parts_cuda(const Block& block) {
  return (block.images * block.positions + kRows - 1) / kRows;
}

int add_parts(const Block& block, const double* partial, double* sums, void* stream) {
  return launch(add_all_parts, grid_for(2 * block.channels), stream, partial,
                block_parts_cuda(block), 2 * block.channels, sums);
}

int block_moments_cuda(const Block& block, double* partial, double* sums, void* stream) {
  const int status = launch(moments, grid_for_parts(block), stream, block, partial);
  return status == kOk ? add_parts(block, partial, sums, stream) : status;
}

int block_extremes_cuda(const Block& block, float* workspace, float* extremes, void* stream) {
  return with_function(block.function, [&](auto f) {
    return with_runs(block, {}, [&](auto whole) {
      return launch_cooperative(block_extremes<f.value, whole.value>, observing_grid(block.numel()),
                                stream, block, workspace, extremes);
    });
  });
}

int block_codes_cuda(const Block& block, const float* range, int levels, uint8_t* codes,
                     void* stream) {
  return with_function(block.function, [&](auto f) {
    return with_runs(block, {codes}, [&](auto whole) {
      return launch(block_codes<f.value, whole.value>, grid_for_runs(block), stream, block, range,
                    levels, codes);
    });
  });
}

int block_values_cuda(const Block& block, float* values, void* stream) {
  return with_function(block.function, [&](auto f) {
    return with_runs(block, {values}, [&](auto whole) {
      return launch(block_values<f.value, whole.value>, grid_for_runs(block), stream, block,
                    values);
    });
  });
}

int block_means_cuda(const Block& block, float* means, void* stream) {
  const int64_t columns = (block.channels + kLaneChannels - 1) / kLaneChannels;
  return with_function(block.function, [&](auto f) {
    return launch(block_means<f.value>, grid_for(block.images * columns * kThreads), stream, block,
                  means);
  });
}

}  // namespace micronet
