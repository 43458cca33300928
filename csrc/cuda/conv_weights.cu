// Packing of the weights of a convolution of codes, once a call.

#include "cuda/conv_weights.h"
#include "cuda/vector.h"

namespace micronet {
namespace {

// The quantized weights of all channels and where they go. All pointers are to device memory.
struct WeightRows {
  QuantConv c;
  int64_t words, steps;
  const uint8_t* codes;
  const float *scale, *zero_point;
  int8_t* integers;
  int* offset;
  unsigned* padding;
};

__device__ __forceinline__ int whole_of(float zero_point) {
  return zero_point * 0.0f == 0.0f ? static_cast<int>(zero_point) : 0;
}

__device__ __forceinline__ Quantizer input_quantizer(const QuantConv& c) {
  return make_quantizer(c.range[0], c.range[1], c.levels, kAffine);
}

__device__ __forceinline__ int sum_of_warp(int mine) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2)
    mine += __shfl_xor_sync(kAllLanes, mine, lanes);
  return mine;
}

// Integer weight of an output channel, 0 beyond its channels and taps.
__device__ __forceinline__ int integer_at(const WeightRows& w, int64_t output, int64_t channel,
                                          int64_t tap) {
  const ConvShape& s = w.c.shape;
  if (output >= s.out_channels || channel >= s.group_channels() || tap >= s.taps()) return 0;
  return w.codes[output * s.depth() + channel * s.taps() + tap] + whole_of(w.zero_point[output]);
}

__device__ __forceinline__ void finish_channel(const WeightRows& w, int64_t output, int sum) {
  const Quantizer q = input_quantizer(w.c);
  const int zero = whole_of(q.zero_point);
  w.offset[output] = sum * zero;
  if (output == 0) *w.padding = static_cast<unsigned>(-zero & 15) * 0x11111111u;
  w.c.ratio[output] = 1.0f / (q.scale * w.scale[output]);
}

// A warp packs the row of an output channel.
__global__ void pack_rows(const WeightRows w) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t bytes = w.steps * kStepWords * kWordCodes, step = int64_t{gridDim.x} * kWarps;
  int64_t output = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  for (; output < w.c.shape.out_channels; output += step) {
    int sum = 0;
    for (int64_t at = lane; at < bytes; at += kWarp) {
      const int64_t word = at / kWordCodes, place = at % kWordCodes;
      const int64_t in_word = place < kWordCodes / 2 ? 2 * place : 2 * place - (kWordCodes - 1);
      const int64_t channel = word % w.words * kWordCodes + in_word;
      const int whole = integer_at(w, output, channel, word / w.words);
      w.integers[output * bytes + at] = static_cast<int8_t>(whole);
      sum += whole;
    }
    sum = sum_of_warp(sum);
    if (lane == 0) finish_channel(w, output, sum);
  }
}

// A warp packs the slices of a channel, also of those that fill the last word.
__global__ void pack_diagonals(const WeightRows w) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t step = int64_t{gridDim.x} * kWarps;
  int64_t output = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  for (; output < w.words * kWordCodes; output += step) {
    const int64_t word = output / kWordCodes, column = output % kWordCodes;
    int sum = 0;
    for (int64_t tap = lane; tap < w.steps * kSliceTaps; tap += kWarp) {
      const int whole = integer_at(w, output, 0, tap);
      const int64_t slice = word * w.steps + tap / kSliceTaps;
      w.integers[slice * kWarp + column * kSliceTaps + tap % kSliceTaps] =
          static_cast<int8_t>(whole);
      sum += whole;
    }
    sum = sum_of_warp(sum);
    if (lane == 0 && output < w.c.shape.out_channels) finish_channel(w, output, sum);
  }
}

__global__ void list_taps(const ConvShape s, int64_t words, int64_t count, TapWord* taps) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    const int64_t tap = i / words, channel = i % words * kWordCodes;
    const int64_t down = tap / s.kernel_width * s.dilation_y;
    const int64_t right = tap % s.kernel_width * s.dilation_x;
    taps[i] = {(down * s.width + right) * s.in_channels + channel,
               tap < s.taps() ? static_cast<int>(down) : kNowhere, static_cast<int>(right)};
  }
}

// Lists the steps of a block of output channels that hold any weight. A warp looks through a step.
__global__ void list_used_steps(const int8_t* __restrict__ integers, int steps,
                                int64_t group_blocks, int64_t group_outputs, int* __restrict__ used,
                                int* __restrict__ counts) {
  constexpr int kPackets = kStepWords * kWordCodes / 16;
  __shared__ int found[kWarps];
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t block = blockIdx.x, from = block % group_blocks * kTileOutputs;
  const int64_t first = block / group_blocks * group_outputs + from, left = group_outputs - from;
  const int rows = static_cast<int>(left < kTileOutputs ? left : kTileOutputs);
  const uint4* packets = reinterpret_cast<const uint4*>(integers) + first * steps * kPackets;
  int count = 0;
  for (int begin = 0; begin < steps; begin += kWarps) {
    const int step = begin + warp;
    unsigned bits = 0;
    for (int i = lane; i < rows * kPackets && step < steps; i += kWarp) {
      const int64_t row = i / kPackets;
      const uint4 v = packets[(row * steps + step) * kPackets + i % kPackets];
      bits |= v.x | v.y | v.z | v.w;
    }
    const int any = __any_sync(kAllLanes, bits != 0);
    if (lane == 0) found[warp] = any;
    __syncthreads();
    for (int w = 0; w < kWarps && threadIdx.x == 0; ++w) {
      if (found[w] != 0) used[block * steps + count++] = begin + w;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) counts[block] = count;
}

}  // namespace

ConvTiles::ConvTiles(const ConvShape& s, bool depthwise)
    : ConvWorkspace(s),
      is_depthwise(depthwise),
      words((s.in_channels / (depthwise ? 1 : s.groups) + kWordCodes - 1) / kWordCodes),
      steps(depthwise ? (s.taps() + kSliceTaps - 1) / kSliceTaps
                      : (s.taps() * words + kStepWords - 1) / kStepWords),
      blocks(s.groups * ((s.out_channels / s.groups + kTileOutputs - 1) / kTileOutputs)) {
  integers = take(depthwise ? words * steps * kWarp : s.out_channels * row_bytes());
  offset = take(4 * s.out_channels);
  padding = take(4);
  const int64_t products = depthwise ? 0 : steps;
  taps = take(products * kStepWords * static_cast<int64_t>(sizeof(TapWord)));
  used = take(products * blocks * static_cast<int64_t>(sizeof(int)));
  counts = take(blocks * static_cast<int64_t>(sizeof(int)));
}

int pack_weights_cuda(const QuantConv& conv, const ConvTiles& tiles, void* workspace,
                      PackedWeights* packed, void* stream) {
  const ConvShape& s = conv.shape;
  uint8_t* memory = static_cast<uint8_t*>(workspace);
  const Weight weight = tiles.weight_of(conv, memory);
  int status = quantize_per_channel_cuda(weight, conv.type, kAffine, stream);
  const WeightRows rows{conv,
                        tiles.words,
                        tiles.steps,
                        memory + tiles.weight_codes,
                        weight.scale,
                        weight.zero_point,
                        reinterpret_cast<int8_t*>(memory + tiles.integers),
                        reinterpret_cast<int*>(memory + tiles.offset),
                        reinterpret_cast<unsigned*>(memory + tiles.padding)};
  TapWord* taps = reinterpret_cast<TapWord*>(memory + tiles.taps);
  int* used = reinterpret_cast<int*>(memory + tiles.used);
  int* counts = reinterpret_cast<int*>(memory + tiles.counts);
  *packed = {rows.integers, rows.offset, rows.padding, taps, used, counts};
  if (status != kOk) return status;
  if (tiles.is_depthwise) {
    return launch(pack_diagonals, grid_for(tiles.words * kWordCodes * kWarp), stream, rows);
  }
  const int64_t words = tiles.steps * kStepWords;
  status = launch(pack_rows, grid_for(s.out_channels * kWarp), stream, rows);
  if (status == kOk)
    status = launch(list_taps, grid_for(words), stream, s, tiles.words, words, taps);
  if (status != kOk) return status;
  return launch(list_used_steps, static_cast<unsigned>(tiles.blocks), stream, rows.integers,
                tiles.steps, tiles.blocks / s.groups, s.out_channels / s.groups, used, counts);
}

}  // namespace micronet
