// The inner loops of what follows a convolution: plain loops over elements that lie side by side,
// with their constants beside them, for the compiler to turn into vectors.
#ifndef MICRONET_CPU_ISA_LOOPS_BLOCK_H_
#define MICRONET_CPU_ISA_LOOPS_BLOCK_H_

#include "cpu/kernels.h"
#include "include/function.h"

namespace micronet {
namespace {

template <int kFunction>
struct Chosen {
  static constexpr int value = kFunction;
};

// Calls body(the function as a type).
template <typename Body>
MICRONET_INLINE void with_function(Function function, const Body& body) {
  if (function == kSwish) {
    body(Chosen<kSwish>());
  } else if (function == kSigmoid) {
    body(Chosen<kSigmoid>());
  } else if (function == kRelu) {
    body(Chosen<kRelu>());
  } else {
    body(Chosen<kIdentity>());
  }
}

template <typename F>
MICRONET_INLINE float value_at(const BlockRun& run, int64_t i, F) {
  return activate<F::value>(fmaf(run.acc[i], run.scale[i], run.shift[i])) * run.gate[i];
}

inline void block_floats(const void* acc, Accumulator type, int64_t count, float* floats) {
  if (type == kInt16) {
    const int16_t* from = static_cast<const int16_t*>(acc);
    for (int64_t i = 0; i < count; ++i) floats[i] = static_cast<float>(from[i]);
  } else {
    const int32_t* from = static_cast<const int32_t*>(acc);
    for (int64_t i = 0; i < count; ++i) floats[i] = static_cast<float>(from[i]);
  }
}

// Hands on what a block sums: integers of either width, or floats.
template <typename Body>
MICRONET_INLINE void with_sums(const void* acc, Accumulator type, Body body) {
  if (type == kInt16) {
    body(static_cast<const int16_t*>(acc));
  } else if (type == kInt32) {
    body(static_cast<const int32_t*>(acc));
  } else {
    body(static_cast<const float*>(acc));
  }
}

template <typename T>
MICRONET_INLINE void add_moments(const T* acc, int64_t count, double* sums, double* squares) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const double v = static_cast<double>(acc[i]);
    sums[i] += v;
    squares[i] += v * v;
  }
}

inline void block_moments(const void* acc, Accumulator type, int64_t count, double* sums,
                          double* squares) {
  with_sums(acc, type, [=](auto from) { add_moments(from, count, sums, squares); });
}

// Extremes of each place apart; `bad` is not 0 where a value was NaN.
inline void block_extremes(BlockRun run, float* least, float* most, int32_t* bad) {
  with_function(run.function, [=](auto function) {
#pragma GCC ivdep
    for (int64_t i = 0; i < run.count; ++i) {
      const float v = value_at(run, i, function);
      least[i] = v < least[i] ? v : least[i];
      most[i] = v > most[i] ? v : most[i];
      bad[i] |= v != v;
    }
  });
}

template <typename T>
MICRONET_INLINE void widen_ends(const T* acc, int64_t count, const IntegerEnds& ends) {
  constexpr T kLeast = std::numeric_limits<T>::min(), kMost = std::numeric_limits<T>::max();
  T *least = static_cast<T*>(ends.least), *most = static_cast<T*>(ends.most);
  T *below = static_cast<T*>(ends.below), *above = static_cast<T*>(ends.above);
  const T* edges = static_cast<const T*>(ends.edges);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const T v = acc[i], low = v <= edges[i] ? v : kLeast, high = v > edges[i] ? v : kMost;
    least[i] = v < least[i] ? v : least[i];
    most[i] = v > most[i] ? v : most[i];
    below[i] = low > below[i] ? low : below[i];
    above[i] = high < above[i] ? high : above[i];
  }
}

inline void block_ends(const void* acc, Accumulator type, int64_t count, const IntegerEnds& ends) {
  if (type == kInt16) {
    widen_ends(static_cast<const int16_t*>(acc), count, ends);
  } else {
    widen_ends(static_cast<const int32_t*>(acc), count, ends);
  }
}

inline void block_codes(BlockRun run, Quantizer q, uint8_t* codes) {
  with_function(run.function, [=](auto function) {
#pragma GCC ivdep
    for (int64_t i = 0; i < run.count; ++i) {
      const float code = quantize(value_at(run, i, function), q) - q.code_min;
      codes[i] = static_cast<uint8_t>(static_cast<int32_t>(code == code ? code : 0.0f));
    }
  });
}

inline void block_values(BlockRun run, float* values) {
  with_function(run.function, [=](auto function) {
#pragma GCC ivdep
    for (int64_t i = 0; i < run.count; ++i) values[i] = value_at(run, i, function);
  });
}

inline void block_add(BlockRun run, float* sums) {
  with_function(run.function, [=](auto function) {
#pragma GCC ivdep
    for (int64_t i = 0; i < run.count; ++i) sums[i] += value_at(run, i, function);
  });
}

// What of a gradient passes where a value was rounded; `L` says whether to a learned step.
template <typename L>
MICRONET_INLINE float passed_at(const GradientRun& g, int64_t i, float value, L) {
  const float t = L::value ? g.q.scale * value : value;
  const bool inside = L::value ? (t > g.q.lo) & (t < g.q.hi) : (t >= g.q.lo) & (t <= g.q.hi);
  return inside ? g.grad[i] : 0.0f;
}

// Calls body(the function as a type, whether the step is learned as a type).
template <typename Body>
MICRONET_INLINE void with_rounding(const BlockRun& run, const GradientRun& g, const Body& body) {
  with_function(run.function, [&](auto function) {
    if (g.q.is_learned) {
      body(function, Chosen<1>());
    } else {
      body(function, Chosen<0>());
    }
  });
}

// The gradient to z.
template <typename F, typename L>
MICRONET_INLINE float gradient_at(const BlockRun& run, const GradientRun& g, int64_t i, F,
                                  L learned) {
  const float z = fmaf(run.acc[i], run.scale[i], run.shift[i]);
  const float passed = passed_at(g, i, activate<F::value>(z), learned);
  return through<F::value>(passed + g.mean_grad[i], z);
}

// Adds the gradients to z and their products with what a block sums; keep(i, gradient) sees each.
template <typename Keep>
MICRONET_INLINE void add_gradients(const BlockRun& run, const GradientRun& g, float* sums,
                                   float* products, Keep keep) {
  with_rounding(run, g, [=](auto function, auto learned) {
#pragma GCC ivdep
    for (int64_t i = 0; i < run.count; ++i) {
      const float dz = gradient_at(run, g, i, function, learned);
      sums[i] += dz;
      products[i] += dz * run.acc[i];
      keep(i, dz);
    }
  });
}

inline void block_gradient_sums(BlockRun run, GradientRun g, float* sums, float* products) {
  add_gradients(run, g, sums, products, [](int64_t, float) {});
}

inline void block_gradient_kept(BlockRun run, GradientRun g, float* sums, float* products,
                                float* kept) {
  add_gradients(run, g, sums, products, [=](int64_t i, float dz) { kept[i] = dz; });
}

template <typename T>
MICRONET_INLINE void map_gradient(const T* acc, int64_t count, const float* const* k, float* dz) {
  const float *k0 = k[0], *k1 = k[1], *k2 = k[2];
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    dz[i] = dz[i] * k0[i] + (static_cast<float>(acc[i]) * k1[i] + k2[i]);
  }
}

inline void norm_gradient(const void* acc, Accumulator type, int64_t count, const float* const* k,
                          float* dz) {
  with_sums(acc, type, [=](auto from) { map_gradient(from, count, k, dz); });
}

inline void block_gradient(BlockRun run, GradientRun g, const float* const* k, float* out) {
  const float *k0 = k[0], *k1 = k[1], *k2 = k[2];
  with_rounding(run, g, [=](auto function, auto learned) {
#pragma GCC ivdep
    for (int64_t i = 0; i < run.count; ++i) {
      const float dz = gradient_at(run, g, i, function, learned);
      out[i] = dz * k0[i] + (run.acc[i] * k1[i] + k2[i]);
    }
  });
}

inline void block_gate_gradient(BlockRun run, GradientRun g, float* grad_a, float* grad_gate) {
  with_rounding(run, g, [=](auto function, auto learned) {
#pragma GCC ivdep
    for (int64_t i = 0; i < run.count; ++i) {
      const float a =
          activate<decltype(function)::value>(fmaf(run.acc[i], run.scale[i], run.shift[i]));
      const float passed = passed_at(g, i, a * run.gate[i], learned);
      grad_a[i] = passed * run.gate[i];
      grad_gate[i] += passed * a;
    }
  });
}

inline void block_step_sums(BlockRun run, GradientRun g, float* steps, float* offsets) {
  with_function(run.function, [=](auto function) {
#pragma GCC ivdep
    for (int64_t i = 0; i < run.count; ++i) {
      const float v = value_at(run, i, function), t = g.q.scale * v;
      const bool inside = (t > g.q.lo) & (t < g.q.hi);
      const float whole = quantize(v, g.q) + g.q.zero_point;
      steps[i] += g.grad[i] * (inside ? whole - t : whole);
      offsets[i] += inside ? 0.0f : g.grad[i];
    }
  });
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_LOOPS_BLOCK_H_
