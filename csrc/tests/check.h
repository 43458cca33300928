// Assertions that stay in release builds, random inputs, and hostile splits of a loop.
#ifndef MICRONET_TESTS_CHECK_H_
#define MICRONET_TESTS_CHECK_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "cpu/half.h"
#include "cpu/kernels.h"
#include "include/core.h"

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                        \
    }                                                                      \
  } while (false)

namespace micronet {

// The same bits, or NaN both.
inline bool same(float a, float b) { return a != a ? b != b : word_of(a) == word_of(b); }

// Each program of tests defines its own; csrc/tests/main.cpp calls it.
void run_tests(std::mt19937& random);

// Of csrc/tests/plain.cpp.
std::vector<float> normals(std::mt19937& random, int64_t count);
std::vector<uint8_t> bytes(std::mt19937& random, int64_t count);
bool same(const std::vector<float>& a, const std::vector<float>& b);
// The codes of swish of sums, those of `channels` channels side by side.
std::vector<uint8_t> swish_codes_plainly(const std::vector<int32_t>& sums, const float* scale,
                                         const float* shift, size_t channels, const Quantizer& q);

inline bool bit(const std::vector<uint8_t>& bits, int64_t i) {
  return (bits[static_cast<size_t>(i / 8)] >> (i % 8)) & 1;
}

using Body = void (*)(void*, int64_t, int64_t);

inline void run_at_once(int64_t count, int64_t, Body body, void* context) {
  if (count > 0) body(context, 0, count);
}

// Unit by unit from the last to the first, whatever the grain.
inline void run_backwards(int64_t count, int64_t, Body body, void* context) {
  for (int64_t i = count; i-- > 0;) body(context, i, i + 1);
}

inline void run_on_threads(int64_t count, int64_t, Body body, void* context) {
  const int64_t third = count / 3;
  std::thread first(body, context, 0, third), second(body, context, third, 2 * third);
  body(context, 2 * third, count);
  first.join();
  second.join();
}

constexpr ParallelFor kRunners[] = {{run_at_once}, {run_backwards}, {run_on_threads}};

// Calls body() with each instruction set that this machine has.
template <typename Test>
void on_every_instruction_set(const Test& body) {
  for (const Kernels* const* set = available_kernels(); *set != nullptr; ++set) {
    std::printf("%s\n", (*set)->name);
    CHECK(choose_kernels((*set)->name));
    body();
  }
}

constexpr int64_t kSizes[] = {0,  1,   7,    8,    9,    15,   16,   17,    63,    64,
                              65, 997, 4095, 4096, 4097, 8192, 8193, 65537, 140009};

// Calls body(parallel) with each instruction set and each way to split its loops.
template <typename Test>
void on_every_loop(const Test& body) {
  on_every_instruction_set([&] {
    for (const ParallelFor& parallel : kRunners) body(parallel);
  });
}

// Calls body(numel, parallel) with each size as well.
template <typename Test>
void on_every_size(const Test& body) {
  on_every_loop([&](const ParallelFor& parallel) {
    for (const int64_t numel : kSizes) body(numel, parallel);
  });
}

}  // namespace micronet

#endif  // MICRONET_TESTS_CHECK_H_
