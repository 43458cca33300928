// Packing of the weights of a convolution of codes, once a call.

#include "cuda/conv_weights.h"
#include "cuda/vector.h"

namespace micronet {
namespace {

// The quantized weights of all channels and where they go. All pointers are to device memory.
struct WeightRows {
  QuantConv c;
  int bits, states;
  int64_t words, steps;
  const uint8_t* codes;
  const float *scale, *zero_point;
  int8_t* integers;
  int *correction, *offset;
  unsigned* padding;
};

__device__ __forceinline__ int whole_of(float zero_point) {
  return zero_point * 0.0f == 0.0f ? static_cast<int>(zero_point) : 0;
}

__device__ __forceinline__ int sum_of_warp(int mine) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2)
    mine += __shfl_xor_sync(kAllLanes, mine, lanes);
  return mine;
}

// The weights of an output channel; those of the one after the last are ones.
struct WeightRow {
  const uint8_t* codes;  // null of ones, and where no such channel is
  int64_t channels, taps;
  int zero, offset, beyond;

  __device__ __forceinline__ WeightRow(const WeightRows& w, int64_t output, int other)
      : codes(nullptr),
        channels(w.c.shape.group_channels()),
        taps(w.c.shape.taps()),
        zero(0),
        offset(0),
        beyond(other) {
    if (output >= w.c.shape.out_channels) return;
    codes = w.codes + output * w.c.shape.depth();
    const int whole = whole_of(w.zero_point[output]);
    offset = weight_offset(whole, w.states);
    zero = whole - offset;
  }

  __device__ __forceinline__ bool has(int64_t channel, int64_t tap) const {
    return channel < channels && tap < taps;
  }

  // An integer less the offset, 0 beyond the channels and taps.
  __device__ __forceinline__ int byte_at(int64_t channel, int64_t tap) const {
    if (!has(channel, tap)) return 0;
    return codes == nullptr ? beyond : codes[channel * taps + tap] + zero;
  }

  // By one thread, with the sum of the bytes.
  __device__ __forceinline__ void finish(const WeightRows& w, int64_t output, int sum) const {
    if (codes == nullptr) return;
    const Quantizer q = w.c.coding.quantizer();
    const int zero_of_input = whole_of(q.zero_point);
    const int whole = sum + offset * static_cast<int>(channels * taps);
    w.correction[output] = whole * zero_of_input;
    w.offset[output] = offset;
    w.c.ratio[output] = 1.0f / (q.scale * w.scale[output]);
    if (output > 0) return;
    const unsigned code = static_cast<unsigned>(-zero_of_input);
    *w.padding = w.bits == 4 ? (code & 15) * 0x11111111u : (code & 255) * 0x01010101u;
  }
};

// A warp packs the row of an output channel.
__global__ void pack_rows(const WeightRows w) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t bytes = w.steps * kStepWords * kWordCodes, step = int64_t{gridDim.x} * kWarps;
  int64_t output = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  for (; output <= w.c.shape.out_channels; output += step) {
    const WeightRow row(w, output, 1);
    int sum = 0;
    for (int64_t at = lane; at < bytes; at += kWarp) {
      const int64_t word = at / kWordCodes, place = at % kWordCodes;
      const int64_t halved = place < kWordCodes / 2 ? 2 * place : 2 * place - (kWordCodes - 1);
      const int64_t channel = word % w.words * kWordCodes + (w.bits == 4 ? halved : place);
      const int byte = row.byte_at(channel, word / w.words);
      w.integers[output * bytes + at] = static_cast<int8_t>(byte);
      sum += byte;
    }
    sum = sum_of_warp(sum);
    if (lane == 0) row.finish(w, output, sum);
  }
}

// A warp packs the slices of a channel, also of those that fill the last word.
__global__ void pack_diagonals(const WeightRows w) {
  const int lane = static_cast<int>(threadIdx.x % kWarp), in_word = 32 / w.bits;
  const int64_t step = int64_t{gridDim.x} * kWarps;
  int64_t output = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  for (; output < w.words * in_word; output += step) {
    const WeightRow row(w, output, 0);
    const int64_t word = output / in_word, column = output % in_word;
    int sum = 0;
    for (int64_t tap = lane; tap < w.steps * kSliceTaps; tap += kWarp) {
      const int byte = row.byte_at(0, tap);
      const int64_t slice = word * w.steps + tap / kSliceTaps;
      int8_t* to = w.integers + slice * kWarp + column * kSliceTaps + tap % kSliceTaps;
      *to = static_cast<int8_t>(byte);
      if (w.bits == 8) to[kWarp / 2] = row.offset != 0 && row.has(0, tap) ? 1 : 0;
      sum += byte;
    }
    sum = sum_of_warp(sum);
    if (lane == 0) row.finish(w, output, sum);
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

// Lists the steps of a block of output channels that hold any weight, or all where a channel has an
// offset: it takes the sum of all codes. A warp looks through a step.
__global__ void list_used_steps(const int8_t* __restrict__ integers, const int* __restrict__ offset,
                                int steps, int outputs, int64_t group_blocks, int64_t group_outputs,
                                int* __restrict__ used, int* __restrict__ counts) {
  constexpr int kPackets = kStepWords * kWordCodes / 16;
  __shared__ int found[kWarps];
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t block = blockIdx.x, from = block % group_blocks * outputs;
  const int64_t first = block / group_blocks * group_outputs + from, left = group_outputs - from;
  const int rows = static_cast<int>(left < outputs ? left : outputs);
  const uint4* packets = reinterpret_cast<const uint4*>(integers) + first * steps * kPackets;
  const int lacks = lane < rows ? offset[first + lane] : 0;
  const bool is_dense = __any_sync(kAllLanes, lacks != 0) != 0;
  int count = 0;
  for (int begin = 0; begin < steps; begin += kWarps) {
    const int step = begin + warp;
    unsigned bits = 0;
    for (int i = lane; i < rows * kPackets && step < steps; i += kWarp) {
      const int64_t row = i / kPackets;
      const uint4 v = packets[(row * steps + step) * kPackets + i % kPackets];
      bits |= v.x | v.y | v.z | v.w;
    }
    const int any = __any_sync(kAllLanes, bits != 0 || (is_dense && step < steps));
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

bool has_offsets(const QuantConv& conv) {
  return conv.weight_scheme != kSymmetric &&
         weight_states(conv.weight_levels, conv.weight_scheme) > 128;
}

ConvTiles::ConvTiles(const ConvShape& s, int bits_of_code, bool has_offsets)
    : ConvWorkspace(s), is_depthwise(has_depthwise_tiles(s)), bits(bits_of_code) {
  const int64_t in_word = is_depthwise ? 32 / bits : kWordCodes;
  words = (s.in_channels / (is_depthwise ? 1 : s.groups) + in_word - 1) / in_word;
  const int64_t slices = (s.taps() + kSliceTaps - 1) / kSliceTaps, together = bits / 4;
  steps =
      is_depthwise ? round_up(slices, together) : (s.taps() * words + kStepWords - 1) / kStepWords;
  const int64_t outputs = tile_outputs(has_offsets);
  blocks = s.groups * ((s.out_channels / s.groups + outputs - 1) / outputs);
  integers = take(is_depthwise ? words * steps * kWarp : (s.out_channels + 1) * row_bytes());
  correction = take(4 * s.out_channels);
  offset = take(4 * s.out_channels);
  padding = take(4);
  const int64_t products = is_depthwise ? 0 : steps;
  taps = take(products * kStepWords * static_cast<int64_t>(sizeof(TapWord)));
  used = take(products * blocks * static_cast<int64_t>(sizeof(int)));
  counts = take(blocks * static_cast<int64_t>(sizeof(int)));
}

// Half bytes of a depthwise convolution are made bytes where sums of codes are needed too.
ConvTiles::ConvTiles(const QuantConv& c)
    : ConvTiles(c.shape,
                are_half_bytes(c.coding.levels) && !(has_depthwise_tiles(c.shape) && has_offsets(c))
                    ? 4
                    : 8,
                has_offsets(c)) {}

int pack_weights_cuda(const QuantConv& conv, const ConvTiles& tiles, void* workspace,
                      PackedWeights* packed, void* stream) {
  const ConvShape& s = conv.shape;
  uint8_t* memory = static_cast<uint8_t*>(workspace);
  const Weight weight = tiles.weight_of(conv, memory);
  int status = quantize_per_channel_cuda(weight, conv.type, conv.weight_scheme, stream);
  const WeightRows rows{conv,
                        tiles.bits,
                        weight_states(conv.weight_levels, conv.weight_scheme),
                        tiles.words,
                        tiles.steps,
                        memory + tiles.weight_codes,
                        weight.scale,
                        weight.zero_point,
                        reinterpret_cast<int8_t*>(memory + tiles.integers),
                        reinterpret_cast<int*>(memory + tiles.correction),
                        reinterpret_cast<int*>(memory + tiles.offset),
                        reinterpret_cast<unsigned*>(memory + tiles.padding)};
  TapWord* taps = reinterpret_cast<TapWord*>(memory + tiles.taps);
  int* used = reinterpret_cast<int*>(memory + tiles.used);
  int* counts = reinterpret_cast<int*>(memory + tiles.counts);
  *packed = {rows.integers, rows.correction, rows.offset, rows.padding, taps, used, counts};
  if (status != kOk) return status;
  if (tiles.is_depthwise) {
    return launch(pack_diagonals, grid_for(tiles.words * (32 / tiles.bits) * kWarp), stream, rows);
  }
  const int64_t words = tiles.steps * kStepWords;
  status = launch(pack_rows, grid_for((s.out_channels + 1) * kWarp), stream, rows);
  if (status == kOk)
    status = launch(list_taps, grid_for(words), stream, s, tiles.words, words, taps);
  if (status != kOk) return status;
  return launch(list_used_steps, static_cast<unsigned>(tiles.blocks), stream, rows.integers,
                rows.offset, tiles.steps, tile_outputs(has_offsets(conv)), tiles.blocks / s.groups,
                s.out_channels / s.groups, used, counts);
}

}  // namespace micronet
