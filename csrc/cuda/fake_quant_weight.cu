// Rounding weights to the range of each channel on a CUDA device.

#include "cuda/extremes.h"
#include "cuda/rows.h"

namespace micronet {
namespace {

// The longest row that a warp takes alone, in one tile.
constexpr int64_t kShortRow = kTile;

// Of kSymmetric: its codes are stored less code_min, which the zero point takes back.
__device__ __forceinline__ float least_code(const Quantizer& q, int scheme) {
  return scheme == kSymmetric ? q.code_min : 0.0f;
}

// A value goes to the weight's type, a code to a byte, 0 where it is NaN.
template <typename T>
__device__ __forceinline__ void store_values(const Piece<T>& row, int64_t tile, int lane,
                                             const Quantizer& q, int, float (&v)[kEach], T* w_hat) {
#pragma unroll
  for (int e = 0; e < kEach; ++e) v[e] = dequantize(quantize(v[e], q), q);
  row.store(v, tile, lane, w_hat);
}

template <int kSize>
struct alignas(kSize) Codes {
  uint8_t values[kSize];
};

template <typename T>
__device__ __forceinline__ void store_values(const Piece<T>& row, int64_t tile, int lane,
                                             const Quantizer& q, int scheme, float (&v)[kEach],
                                             uint8_t* codes) {
  constexpr int kSize = Packet<T>::kSize;
  const float least = least_code(q, scheme);
  uint8_t* to = codes + row.first + tile * kTile;
  const bool whole = row.is_whole(tile);
#pragma unroll
  for (int p = 0; p < kEach; p += kSize) {
    const int at = place<T>(lane, p);
    Codes<kSize> packet;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const float code = quantize(v[p + i], q) - least;
      packet.values[i] = static_cast<uint8_t>(static_cast<int>(code == code ? code : 0.0f));
      if (!whole && at + i < row.count(tile)) to[at + i] = packet.values[i];
    }
    if (whole) *reinterpret_cast<Codes<kSize>*>(to + at) = packet;
  }
}

template <int kTeam>
__device__ __forceinline__ Extremes over_team(Extremes e) {
  if constexpr (kTeam == kWarps) {
    __syncthreads();  // the extremes of an earlier channel may still be read
    return over_block(e);
  } else {
#pragma unroll
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
      const float lo = __shfl_xor_sync(kAllLanes, e.lo(), lanes);
      const float hi = __shfl_xor_sync(kAllLanes, e.hi(), lanes);
      e.merge(lo, hi);
    }
    return e;
  }
}

// The quantizer of a channel whose extremes are found, or whose step is learned.
__device__ __forceinline__ Quantizer quantizer_of(const Weight& weight, int64_t channel, int scheme,
                                                  const Extremes& all) {
  if (scheme != kLearned) return make_quantizer(all.lo(), all.hi(), weight.levels, scheme);
  const float* steps = weight.steps + channel;
  return learned_quantizer(steps[0], steps[weight.channels], weight.levels);
}

// A row by a team of kTeam warps, of which this is number `member`. The zeros beyond its end do no
// harm: 0 belongs to every range. The tile that a warp reads last stays in its registers and is
// rounded first; others, in rows beyond 2048 elements, are read again while still in the cache.
template <int kTeam, typename T, typename Out>
__device__ __forceinline__ Quantizer round_row(const Piece<T>& row, int member,
                                               const Weight& weight, int64_t channel, int scheme,
                                               Out* out) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t tiles = row.tiles();
  float v[kEach];
  Extremes seen;
  const int64_t mine = (tiles + kTeam - 1 - member) / kTeam;
  for (int64_t tile = member + (mine - 1) * kTeam; tile >= 0; tile -= kTeam) {
    row.load(tile, lane, v);
    seen.add(v);
  }
  const Extremes all = over_team<kTeam>(seen);
  Quantizer q = quantizer_of(weight, channel, scheme, all);
  for (int64_t tile = member; tile < tiles; tile += kTeam) {
    if (tile != member) row.load(tile, lane, v);
    store_values(row, tile, lane, q, scheme, v, out);
  }
  // A learned step does not see its weights as a range does: one that has no code takes the scale.
  // A number less itself is 0, but for infinity and NaN.
  if (scheme == kLearned) q.scale += (all.lo() - all.lo()) + (all.hi() - all.hi());
  return q;
}

// Out is T for values, uint8_t for codes. All pointers of the weight are to device memory.
template <int kTeam, typename T, typename Out>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    round_rows(const Weight weight, int scheme) {
  constexpr int kTeams = kWarps / kTeam;
  const int warp = static_cast<int>(threadIdx.x / kWarp), member = warp % kTeam;
  const T* w = static_cast<const T*>(weight.w);
  Out* out = static_cast<Out*>(weight.w_hat);
  const int64_t step = static_cast<int64_t>(gridDim.x) * kTeams;
  int64_t channel = static_cast<int64_t>(blockIdx.x) * kTeams + warp / kTeam;
  for (; channel < weight.channels; channel += step) {
    const int64_t first = channel * weight.per_channel;
    constexpr size_t kPacketOut = Packet<T>::kSize * sizeof(Out);
    const bool aligned =
        is_aligned(w + first) && reinterpret_cast<uintptr_t>(out + first) % kPacketOut == 0;
    const Piece<T> row{w, weight.mask, first, weight.per_channel, aligned};
    const Quantizer q = round_row<kTeam>(row, member, weight, channel, scheme, out);
    if (threadIdx.x % (kTeam * kWarp) != 0) continue;
    if (weight.scale != nullptr) weight.scale[channel] = q.scale;
    if (weight.zero_point == nullptr) continue;
    const bool are_codes = std::is_same<Out, uint8_t>::value;
    weight.zero_point[channel] = q.zero_point + (are_codes ? least_code(q, scheme) : 0.0f);
  }
}

template <typename T, typename Out>
int round_channels(const Weight& weight, int scheme, void* stream) {
  if (weight.per_channel == 0) return kNoElements;
  if (weight.channels == 0) return kOk;
  return weight.per_channel <= kShortRow
             ? launch(round_rows<1, T, Out>, grid_for(weight.channels * kWarp), stream, weight,
                      scheme)
             : launch(round_rows<kWarps, T, Out>, grid_for(weight.channels * kThreads), stream,
                      weight, scheme);
}

}  // namespace

int fake_quant_per_channel_cuda(const Weight& weight, DType type, int scheme, void* stream) {
  return with_type(type, [&](auto* t) {
    using T = std::remove_pointer_t<decltype(t)>;
    return round_channels<T, T>(weight, scheme, stream);
  });
}

int quantize_per_channel_cuda(const Weight& weight, DType type, int scheme, void* stream) {
  return with_type(type, [&](auto* t) {
    return round_channels<std::remove_pointer_t<decltype(t)>, uint8_t>(weight, scheme, stream);
  });
}

}  // namespace micronet
