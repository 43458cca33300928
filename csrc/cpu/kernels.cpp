// Which instruction set runs: the machine's best, or the one that was chosen by name.

#include "cpu/kernels.h"

#include <atomic>
#include <cstring>

#if defined(MICRONET_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace micronet {
namespace {

struct Available {
  const Kernels* tables[5] = {};

  Available() {
    int count = 0;
    tables[count++] = &kBaselineKernels;
#ifdef MICRONET_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c")) {
      tables[count++] = &kAvx2Kernels;
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("bmi2")) {
      tables[count++] = &kAvx512Kernels;
      if (__builtin_cpu_supports("avx512vnni")) tables[count++] = &kVnniKernels;
    }
#elif defined(MICRONET_ARM64)
    tables[count++] = &kNeonKernels;  // a part of the architecture
#ifdef __linux__
    if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) tables[count++] = &kNeonDotKernels;
#endif
#endif
  }
};

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

const Kernels* const* available_kernels() {
  static const Available available;
  return available.tables;
}

bool choose_kernels(const char* name) {
  for (const Kernels* const* table = available_kernels(); *table != nullptr; ++table) {
    if (std::strcmp((*table)->name, name) == 0) {
      chosen = *table;
      return true;
    }
  }
  return false;
}

const Kernels& kernels() {
  const Kernels* table = chosen.load(std::memory_order_relaxed);
  if (table != nullptr) return *table;
  const Kernels* const* last = available_kernels();
  while (last[1] != nullptr) ++last;
  chosen = *last;
  return **last;
}

}  // namespace micronet
