// The inner loops of what follows a convolution: plain loops over elements that lie side by side,
// with their constants beside them, for the compiler to turn into vectors.
#ifndef MICRONET_CPU_LOOPS_BLOCK_H_
#define MICRONET_CPU_LOOPS_BLOCK_H_

#include "../function.h"
#include "kernels.h"

namespace micronet {
namespace {

// Calls body(pointer to the type of accumulators).
template <typename Body>
inline void with_accumulator(const BlockRun& run, const Body& body) {
  if (run.type == kInt16) {
    body(static_cast<const int16_t*>(run.acc));
  } else if (run.type == kInt32) {
    body(static_cast<const int32_t*>(run.acc));
  } else {
    body(static_cast<const float*>(run.acc));
  }
}

template <int kFunction>
struct Chosen {
  static constexpr int value = kFunction;
};

// Calls body(accumulators, the function as a type).
template <typename Body>
inline void with_function(const BlockRun& run, const Body& body) {
  with_accumulator(run, [&](const auto* acc) {
    if (run.function == kSwish) {
      body(acc, Chosen<kSwish>());
    } else if (run.function == kSigmoid) {
      body(acc, Chosen<kSigmoid>());
    } else if (run.function == kRelu) {
      body(acc, Chosen<kRelu>());
    } else {
      body(acc, Chosen<kIdentity>());
    }
  });
}

// Calls body(accumulators, function, whether there is a gate).
template <typename Body>
inline void with_gate(const BlockRun& run, const Body& body) {
  with_function(run, [&](const auto* acc, auto function) {
    if (run.gate != nullptr) {
      body(acc, function, Chosen<1>());
    } else {
      body(acc, function, Chosen<0>());
    }
  });
}

template <typename F, typename G, typename T>
MICRONET_INLINE float value_at(const BlockRun& run, const T* acc, int64_t i, F, G) {
  const float a = activate<F::value>(fmaf(static_cast<float>(acc[i]), run.m[i], run.b[i]));
  return G::value != 0 ? a * run.gate[i] : a;
}

inline void block_moments(BlockRun run, double* sums, double* squares) {
  with_accumulator(run, [=](const auto* acc) {
#pragma GCC ivdep
    for (int64_t i = 0; i < run.count; ++i) {
      const double v = static_cast<double>(acc[i]);
      sums[i] += v;
      squares[i] += v * v;
    }
  });
}

// Extremes of each place apart; `bad` is not 0 where a value was NaN.
inline void block_extremes(BlockRun run, float* least, float* most, int32_t* bad) {
  with_gate(run, [=](const auto* acc, auto function, auto gate) {
#pragma GCC ivdep
    for (int64_t i = 0; i < run.count; ++i) {
      const float v = value_at(run, acc, i, function, gate);
      least[i] = v < least[i] ? v : least[i];
      most[i] = v > most[i] ? v : most[i];
      bad[i] |= v != v;
    }
  });
}

inline void block_codes(BlockRun run, Quantiser q, uint8_t* codes) {
  with_gate(run, [=](const auto* acc, auto function, auto gate) {
#pragma GCC ivdep
    for (int64_t i = 0; i < run.count; ++i) {
      const float code = quantise(value_at(run, acc, i, function, gate), q);
      codes[i] = static_cast<uint8_t>(static_cast<int32_t>(code == code ? code : 0.0f));
    }
  });
}

inline void block_values(BlockRun run, float* values) {
  with_gate(run, [=](const auto* acc, auto function, auto gate) {
#pragma GCC ivdep
    for (int64_t i = 0; i < run.count; ++i) values[i] = value_at(run, acc, i, function, gate);
  });
}

inline void block_add(BlockRun run, float* sums) {
  with_gate(run, [=](const auto* acc, auto function, auto gate) {
#pragma GCC ivdep
    for (int64_t i = 0; i < run.count; ++i) sums[i] += value_at(run, acc, i, function, gate);
  });
}

// The gradient to z.
template <typename F, typename T>
MICRONET_INLINE float gradient_at(const BlockRun& run, const GradientRun& g, const T* acc,
                                  int64_t i, F) {
  const float z = fmaf(static_cast<float>(acc[i]), run.m[i], run.b[i]);
  const float a = activate<F::value>(z);
  const float passed = (a >= g.lo) & (a <= g.hi) ? g.grad[i] : 0.0f;
  return (passed + g.extra[i]) * slope<F::value>(z);
}

inline void block_gradient_sums(BlockRun run, GradientRun g, float* sums, float* products) {
  with_function(run, [=](const auto* acc, auto function) {
#pragma GCC ivdep
    for (int64_t i = 0; i < run.count; ++i) {
      const float dz = gradient_at(run, g, acc, i, function);
      sums[i] += dz;
      products[i] += dz * static_cast<float>(acc[i]);
    }
  });
}

inline void block_gradient(BlockRun run, GradientRun g, const float* const* k, float* out) {
  const float *k0 = k[0], *k1 = k[1], *k2 = k[2];
  with_function(run, [=](const auto* acc, auto function) {
#pragma GCC ivdep
    for (int64_t i = 0; i < run.count; ++i) {
      const float dz = gradient_at(run, g, acc, i, function);
      out[i] = dz * k0[i] + (static_cast<float>(acc[i]) * k1[i] + k2[i]);
    }
  });
}

inline void block_gate_gradient(BlockRun run, GradientRun g, float* grad_a, float* grad_gate) {
  with_function(run, [=](const auto* acc, auto function) {
#pragma GCC ivdep
    for (int64_t i = 0; i < run.count; ++i) {
      const float a =
          activate<decltype(function)::value>(fmaf(static_cast<float>(acc[i]), run.m[i], run.b[i]));
      const float p = a * run.gate[i];
      const float passed = (p >= g.lo) & (p <= g.hi) ? g.grad[i] : 0.0f;
      grad_a[i] = passed * run.gate[i];
      grad_gate[i] += passed * a;
    }
  });
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_LOOPS_BLOCK_H_
