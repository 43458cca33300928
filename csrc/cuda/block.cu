// What follows a convolution in a block, on a CUDA device.

#include "cuda/block_values.h"
#include "cuda/extremes.h"

namespace micronet {
namespace {

template <int kFunction>
__global__ void block_values(const Block block, float* values) {
  for (int64_t i = first_of_thread(); i < block.numel(); i += threads_of_grid()) {
    values[i] = value_at<kFunction>(block, i);
  }
}

// A thread makes a word of eight codes.
template <int kFunction>
__global__ void block_codes(const Block block, const float* range, int levels, uint8_t* codes) {
  constexpr int kCodes = 8;
  const Quantizer q = make_quantizer(range[0], range[1], levels, kAffine);
  const int64_t numel = block.numel();
  for (int64_t word = first_of_thread(); word * kCodes < numel; word += threads_of_grid()) {
    unsigned packed = 0;
    for (int e = 0; e < kCodes; ++e) {
      const int64_t i = word * kCodes + e;
      if (i >= numel) break;
      const float code = quantize(value_at<kFunction>(block, i), q);
      packed |= static_cast<unsigned>(code == code ? code : 0.0f) << (4 * e);
    }
    for (int byte = 0; byte < kCodes / 2; ++byte) {
      const int64_t i = word * kCodes + 2 * byte;
      if (i < numel) codes[i / 2] = static_cast<uint8_t>(packed >> (8 * byte));
    }
  }
}

// Cooperative; partial [gridDim.x, 2].
template <int kFunction>
__global__ void block_extremes(const Block block, float* partial, float* extremes) {
  Extremes seen;
  for (int64_t i = first_of_thread(); i < block.numel(); i += threads_of_grid()) {
    seen.add(value_at<kFunction>(block, i));
  }
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
    return launch_cooperative(block_extremes<f.value>, observing_grid(block.numel()), stream, block,
                              workspace, extremes);
  });
}

int block_codes_cuda(const Block& block, const float* range, int levels, uint8_t* codes,
                     void* stream) {
  return with_function(block.function, [&](auto f) {
    return launch(block_codes<f.value>, grid_for((block.numel() + 7) / 8), stream, block, range,
                  levels, codes);
  });
}

int block_values_cuda(const Block& block, float* values, void* stream) {
  return with_function(block.function, [&](auto f) {
    return launch(block_values<f.value>, grid_for(block.numel()), stream, block, values);
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
