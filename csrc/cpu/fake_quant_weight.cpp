// Weights: masked, then rounded to the range of each channel.

#include "../core.h"
#include "extremes.h"
#include "parallel.h"

namespace micronet {
namespace {

Quantiser quantiser_of(const float* row, int64_t count, int levels, int scheme) {
  Extremes extremes = extremes_of(row, count);
  extremes.finish();
  return make_quantiser(extremes.least, extremes.most, levels, scheme);
}

// In or out of place: element i is read before it is written.
void fake_quant_row(const float* row, int64_t count, const Quantiser& shared, float* out) {
  const Quantiser q = shared;
  for (int64_t i = 0; i < count; ++i) out[i] = dequantise(quantise(row[i], q), q);
}

// A byte of the code, two's complement where it is signed; NaN fails its comparison and gives 0.
void quantise_row(const float* __restrict row, int64_t count, const Quantiser& shared,
                  uint8_t* __restrict codes) {
  const Quantiser q = shared;
  for (int64_t i = 0; i < count; ++i) {
    const float code = quantise(row[i], q);
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>(code == code ? code : 0.0f));
  }
}

// Calls body(row index, quantiser) for every channel of w, having filled scale and zero_point.
template <typename Body>
void for_each_channel(const float* w, int64_t channels, int64_t per_channel, int levels, int scheme,
                      float* scale, float* zero_point, const ParallelFor& parallel,
                      const Body& body) {
  parallel_for(parallel, channels, per_channel, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const Quantiser q = quantiser_of(w + c * per_channel, per_channel, levels, scheme);
      scale[c] = q.scale;
      zero_point[c] = q.zero_point;
      body(c * per_channel, q);
    }
  });
}

}  // namespace

int fake_quant_per_channel_cpu(const float* w, const uint8_t* mask, int64_t channels,
                               int64_t per_channel, int levels, int scheme, float* w_hat,
                               float* scale, float* zero_point, const ParallelFor& parallel) {
  if (per_channel == 0) return kNoElements;
  if (mask != nullptr) {
    select_by_bits_cpu(w, mask, channels * per_channel, w_hat, parallel);
    w = w_hat;
  }
  for_each_channel(
      w, channels, per_channel, levels, scheme, scale, zero_point, parallel,
      [&](int64_t at, const Quantiser& q) { fake_quant_row(w + at, per_channel, q, w_hat + at); });
  return kOk;
}

int quantize_per_channel_cpu(const float* w, const uint8_t* mask, int64_t channels,
                             int64_t per_channel, int levels, int scheme, float* workspace,
                             uint8_t* codes, float* scale, float* zero_point,
                             const ParallelFor& parallel) {
  if (per_channel == 0) return kNoElements;
  if (mask != nullptr) {
    select_by_bits_cpu(w, mask, channels * per_channel, workspace, parallel);
    w = workspace;
  }
  for_each_channel(
      w, channels, per_channel, levels, scheme, scale, zero_point, parallel,
      [&](int64_t at, const Quantiser& q) { quantise_row(w + at, per_channel, q, codes + at); });
  return kOk;
}

}  // namespace micronet
