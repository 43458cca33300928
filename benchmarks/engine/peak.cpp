// Prints the multiply-adds a second of a core by instruction, 10^9 each, as one JSON object: loops
// of independent sums in registers. What the machine lacks is left out.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>

namespace {

constexpr int kRepeats = 200, kSteps = 20000, kSums = 12;
const char* separator = "";

template <class Loop>
void measure(const char* name, double multiply_adds, Loop loop) {
  using Clock = std::chrono::steady_clock;
  double least = 1e9;
  for (int i = 0; i < kRepeats; ++i) {
    const Clock::time_point start = Clock::now();
    loop();
    least = std::min(least, std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::printf("%s\"%s\": %.1f", separator, name, multiply_adds / least / 1e9);
  separator = ", ";
}

}  // namespace

#if defined(__x86_64__) && defined(__linux__)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

#define SUM(form, register, number) \
  form " %%" register "30, %%" register "31, %%" register #number "\n"
#define FOUR(form, r, a, b, c, d) SUM(form, r, a) SUM(form, r, b) SUM(form, r, c) SUM(form, r, d)
#define SUMS(form, r) \
  FOUR(form, r, 0, 1, 2, 3) FOUR(form, r, 4, 5, 6, 7) FOUR(form, r, 8, 9, 10, 11)
#define CLOBBERED \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11"

void vnni512() {
  for (int i = 0; i < kSteps; ++i) asm volatile(SUMS("vpdpbusd", "zmm")::: CLOBBERED);
}

void fma512() {
  for (int i = 0; i < kSteps; ++i) asm volatile(SUMS("vfmadd231ps", "zmm")::: CLOBBERED);
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

__attribute__((target("amx-tile,amx-int8"))) void tiles() {
  for (int i = 0; i < kSteps / 10; ++i) {
    _tile_dpbusd(0, 4, 5);
    _tile_dpbusd(1, 4, 5);
    _tile_dpbusd(2, 4, 5);
    _tile_dpbusd(3, 4, 5);
  }
}

__attribute__((target("amx-tile,amx-int8"))) void measure_tiles() {
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  if (syscall(SYS_arch_prctl, kRequest, kTileData) != 0) return;
  TileConfig config;
  for (int i = 0; i < 8; ++i) config.row_bytes[i] = 64, config.rows[i] = 16;
  _tile_loadconfig(&config);
  measure("tdpbusd", kSteps / 10 * 4.0 * 16 * 16 * 64, tiles);
  _tile_release();
}

bool has_amx() {
  uint32_t a = 7, b = 0, c = 0, d = 0;
  asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return (d >> 24 & 3) == 3;  // AMX-TILE and AMX-INT8
}

void measure_all() {
  if (__builtin_cpu_supports("avx512f")) measure("float32 fma", kSteps * kSums * 16.0, fma512);
  if (__builtin_cpu_supports("avx512vnni")) measure("vpdpbusd", kSteps * kSums * 64.0, vnni512);
  if (has_amx()) measure_tiles();
}

}  // namespace

#else

namespace {
void measure_all() {}
}  // namespace

#endif

int main() {
  std::printf("{");
  measure_all();
  std::printf("}\n");
}
