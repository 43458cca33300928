// Which instruction set runs: the machine's best, or the one that was chosen by name.

#include "cpu/kernels.h"

#include <atomic>
#include <cstring>

#ifdef MICRONET_X86
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cpu/isa/kernels_avx512.h"
#endif
#if defined(MICRONET_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace micronet {
namespace {

#ifdef MICRONET_X86
// Whether tiles may be used. Linux grants their state to a process that asks for it.
bool has_tiles() {
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;  // leaf 7, EDX
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kTile) == 0 || (d & kInt8) == 0) {
    return false;
  }
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kRequestState = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestState, kTileData) == 0;
#else
  return false;
#endif
}
#endif

struct Available {
  const Kernels* tables[6] = {};
#ifdef MICRONET_X86
  Kernels vnni = kAvx512Kernels, tiles = kAvx512Kernels;
#endif

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
      if (__builtin_cpu_supports("avx512vnni")) {
        vnni.name = "avx512vnni";
        vnni.dot_tile = dot_tile_vnni;
        vnni.sparse_tile = sparse_tile_vnni;
        tables[count++] = &vnni;
        tiles = vnni;
        tiles.name = "avx512amx";
        tiles.dot_tile = dot_tile_amx;
        tiles.skipping_share = kSkippingShareOfTiles;
        if (has_tiles()) tables[count++] = &tiles;
      }
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
