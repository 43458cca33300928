// Exactly k smallest magnitudes by radix selection on a CUDA device, without sorting or waiting.

#include "cuda/scan.h"
#include "cuda/words.h"

namespace micronet {
namespace {

// The 31 bits of a magnitude are settled from the top in three passes, 11 + 10 + 10.
constexpr int kPasses = 3;
constexpr int kBuckets = 1 << 11;

struct Digit {
  int shift, bits;

  __device__ __forceinline__ explicit Digit(int pass)
      : shift(10 * (kPasses - 1 - pass)), bits(pass == 0 ? 11 : 10) {}
};

// What is known of the k-th smallest: its highest bits, and which it is of those that share them.
// After the last pass, `rank` is how many of that magnitude are among the k smallest.
struct Known {
  int64_t rank;
  uint32_t bits;
};

// What one kernel leaves for the next, in device memory. Behind it stand the ties of each unit.
struct Selection {
  int64_t has_nan;
  unsigned long long histogram[kPasses][kBuckets];
  Known before[kPasses + 1];
};

// A block of threads takes a unit at a time; a warp sixteen words of bits of it, an element a lane.
constexpr int kTurns = 16;
constexpr int kUnit = kThreads * kTurns;

int64_t units_of(int64_t numel) { return (numel + kUnit - 1) / kUnit; }

// No more than run at once, since each first reads a whole histogram.
unsigned grid_of(int64_t numel) {
  constexpr int64_t kMost = 1024;
  const int64_t units = units_of(numel);
  return static_cast<unsigned>(units < kMost ? units : kMost);
}

// Weights as the words of their type.
template <typename Word>
struct Weights {
  const Word* w;
  int64_t numel;
  uint32_t infinity;

  // Of 31 bits, ordered as the magnitudes are; those of the 16-bit types sit at the top.
  __device__ __forceinline__ uint32_t magnitude(int64_t i) const {
    const uint32_t word = w[i];
    return sizeof(Word) == 4 ? word & 0x7fffffffu : (word & 0x7fffu) << 16;
  }
};

// Beyond the end; larger than any magnitude.
constexpr uint32_t kNone = 0xffffffffu;

// The first element of this warp's part of a unit.
__device__ __forceinline__ int64_t first_of(int64_t unit) {
  return unit * kUnit + threadIdx.x / kWarp * (kTurns * kWarp);
}

// Element t * kWarp + lane of the warp's part of a unit goes to m[t].
template <typename Word>
__device__ __forceinline__ void load_unit(const Weights<Word>& weights, int64_t unit,
                                          uint32_t (&m)[kTurns]) {
  const int64_t first = first_of(unit) + threadIdx.x % kWarp;
#pragma unroll
  for (int t = 0; t < kTurns; ++t) {
    const int64_t i = first + t * kWarp;
    m[t] = i < weights.numel ? weights.magnitude(i) : kNone;
  }
}

// What is known once histogram [kBuckets] is. Every thread must call.
__device__ inline Known settle(const unsigned long long* histogram, const Digit& digit,
                               const Known& before) {
  __shared__ Known found;
  constexpr int kRun = kBuckets / kThreads;
  const unsigned first = threadIdx.x * kRun;
  int64_t counts[kRun], sum = 0;
#pragma unroll
  for (int b = 0; b < kRun; ++b) {
    counts[b] = static_cast<int64_t>(histogram[first + b]);
    sum += counts[b];
  }
  int64_t rank = before.rank - over_block(sum).before;
  if (threadIdx.x == 0 && rank == 0) found = before;  // of none the smallest
#pragma unroll
  for (int b = 0; b < kRun; ++b, rank -= counts[b - 1]) {
    if (rank > 0 && rank <= counts[b]) found = {rank, before.bits | (first + b) << digit.shift};
  }
  __syncthreads();
  return found;
}

// What is known before a pass, in every thread, and left for the kernels to come.
__device__ inline Known known_before(Selection* s, int pass, int64_t k) {
  Known known{k, 0};
  if (pass > 0) known = settle(s->histogram[pass - 1], Digit(pass - 1), s->before[pass - 1]);
  if (blockIdx.x == 0 && threadIdx.x == 0) s->before[pass] = known;
  return known;
}

// Counts the digits of the elements that share the known bits. Those equal to the first lane's are
// counted at once: pruned weights are all 0, and would wait for each other.
template <typename Word>
__global__ void count_digits(const Weights<Word> weights, int64_t k, int pass, Selection* s) {
  __shared__ unsigned counts[kBuckets];
  for (unsigned b = threadIdx.x; b < kBuckets; b += kThreads) counts[b] = 0;
  const Known known = known_before(s, pass, k);
  __syncthreads();
  const Digit digit(pass);
  const int top = digit.shift + digit.bits;
  bool has_nan = false;
  for (int64_t unit = blockIdx.x; unit * kUnit < weights.numel; unit += gridDim.x) {
    uint32_t m[kTurns];
    load_unit(weights, unit, m);
#pragma unroll
    for (int t = 0; t < kTurns; ++t) {
      const bool is_counted = m[t] >> top == known.bits >> top;
      const unsigned bucket = m[t] >> digit.shift & ((1u << digit.bits) - 1);
      const unsigned common = __shfl_sync(kAllLanes, bucket, 0);
      const unsigned equal = __ballot_sync(kAllLanes, is_counted && bucket == common);
      if (is_counted && bucket != common) atomicAdd(&counts[bucket], 1u);
      if (threadIdx.x % kWarp == 0 && equal != 0) {
        atomicAdd(&counts[common], static_cast<unsigned>(__popc(equal)));
      }
      has_nan = has_nan || (m[t] != kNone && m[t] > weights.infinity);
    }
  }
  if (has_nan) s->has_nan = 1;
  __syncthreads();
  for (unsigned b = threadIdx.x; b < kBuckets; b += kThreads) {
    const unsigned long long mine = counts[b];
    if (mine != 0) atomicAdd(&s->histogram[pass][b], mine);
  }
}

// ties [units]: elements of the k-th smallest's magnitude.
template <typename Word>
__global__ void count_ties(const Weights<Word> weights, int64_t k, Selection* s, int64_t* ties) {
  const uint32_t threshold = known_before(s, kPasses, k).bits;
  for (int64_t unit = blockIdx.x; unit * kUnit < weights.numel; unit += gridDim.x) {
    uint32_t m[kTurns];
    load_unit(weights, unit, m);
    int mine = 0;
#pragma unroll
    for (int t = 0; t < kTurns; ++t) mine += m[t] == threshold;
    const int64_t all = over_block(mine).all;
    if (threadIdx.x == 0) ties[unit] = all;
  }
}

// mask [bytes_for(numel)]; ties [units]: those before each unit. Of equal magnitudes those of lower
// index go first.
template <typename Word>
__global__ void write_mask(const Weights<Word> weights, const Selection* s,
                           const int64_t* __restrict__ ties, uint8_t* __restrict__ mask) {
  const Known known = s->before[kPasses];
  const Words<uint8_t> words(mask, weights.numel);
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  for (int64_t unit = blockIdx.x; unit * kUnit < weights.numel; unit += gridDim.x) {
    uint32_t m[kTurns];
    load_unit(weights, unit, m);
    int mine = 0;
#pragma unroll
    for (int t = 0; t < kTurns; ++t) mine += m[t] == known.bits;
    // Before the first lane stand the warps before this.
    int64_t rank = ties[unit] + __shfl_sync(kAllLanes, over_block(mine).before, 0);
    uint32_t kept = 0;
#pragma unroll
    for (int t = 0; t < kTurns; ++t) {
      const bool is_tie = m[t] == known.bits;
      const unsigned equal = __ballot_sync(kAllLanes, is_tie);
      const bool is_late = rank + __popc(equal & ((1u << lane) - 1)) >= known.rank;
      const bool keeps = is_tie ? is_late : m[t] > known.bits && m[t] != kNone;
      const uint32_t word = __ballot_sync(kAllLanes, keeps);
      if (lane == t) kept = word;
      rank += __popc(equal);
    }
    const int64_t first = first_of(unit) + lane * kWordBits;
    if (lane < kTurns && first < weights.numel) words.store(first, kept);
  }
}

template <typename Word>
int select(const Weights<Word>& weights, int64_t k, uint8_t* mask, Selection* s, void* stream) {
  int64_t* ties = reinterpret_cast<int64_t*>(s + 1);
  const unsigned grid = grid_of(weights.numel);
  int status = kOk;
  for (int pass = 0; pass < kPasses && status == kOk; ++pass) {
    status = launch(count_digits<Word>, grid, stream, weights, k, pass, s);
  }
  if (status == kOk) status = launch(count_ties<Word>, grid, stream, weights, k, s, ties);
  if (status == kOk) status = launch(add_up, 1u, stream, ties, units_of(weights.numel));
  if (status == kOk) status = launch(write_mask<Word>, grid, stream, weights, s, ties, mask);
  return status;
}

}  // namespace

int64_t selection_workspace(int64_t numel) {
  const int64_t ties = units_of(numel) + 1;
  return static_cast<int64_t>(sizeof(Selection)) + ties * static_cast<int64_t>(sizeof(int64_t));
}

int smallest_magnitude_mask_cuda(const void* w, DType type, int64_t numel, int64_t k, uint8_t* mask,
                                 void* workspace, void* stream) {
  if (k < 0 || k > numel) return kBadCount;
  Selection* s = static_cast<Selection*>(workspace);
  const int status =
      status_of(cudaMemsetAsync(s, 0, sizeof(Selection), static_cast<cudaStream_t>(stream)));
  if (status != kOk || numel == 0) return status;
  if (type == kFloat32) {
    const Weights<uint32_t> weights{static_cast<const uint32_t*>(w), numel, 0x7f800000u};
    return select(weights, k, mask, s, stream);
  }
  const uint32_t infinity = type == kBFloat16 ? 0x7f800000u : 0x7c000000u;
  const Weights<uint16_t> weights{static_cast<const uint16_t*>(w), numel, infinity};
  return select(weights, k, mask, s, stream);
}

}  // namespace micronet
