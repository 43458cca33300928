// Some lanes of registers, by way of memory, for instruction sets whose loads and stores have no
// masks.
#ifndef MICRONET_CPU_ISA_LANES_H_
#define MICRONET_CPU_ISA_LANES_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace micronet {
namespace {

// The first `count` of sixteen numbers, loaded as another type, and zeros behind them.
template <typename Vector, typename Lane, typename T>
inline Vector load_lanes_of(const T* p, int count) {
  Lane lanes[16] = {};
  for (int l = 0; l < count; ++l) lanes[l] = static_cast<Lane>(p[l]);
  return Vector::load(lanes);
}

// The first `count` of sums, which `put` writes whole.
template <typename Sums, typename T>
inline void store_lanes_of(const Sums& sums, T* p, int count) {
  if constexpr (std::is_same_v<T, typename Sums::Lane>) {
    if (count == Sums::kLanes) return sums.put(p);
  }
  typename Sums::Lane lanes[Sums::kLanes];
  sums.put(lanes);
  for (int l = 0; l < count; ++l) p[l] = static_cast<T>(lanes[l]);
}

// Longs and Shorts of registers that have `put` and `interleave_sixteen`: what they do with fewer
// lanes than all.
template <typename Registers, typename T, int kCount>
struct ByLanes : Registers {
  using Lane = T;
  static constexpr int kLanes = kCount;

  static ByLanes start(const int32_t* p) { return {Registers::start(p)}; }
  template <typename To>
  void store(To* p, int count) const {
    store_lanes_of(*this, p, count);
  }
  void store_values(const float* ratio, float* p, int count) const {
    Lane lanes[kLanes];
    this->put(lanes);
    for (int l = 0; l < count; ++l) p[l] = static_cast<float>(lanes[l]) * ratio[l];
  }
  static void interleave(const uint8_t* left, const uint8_t* right, int count, uint8_t* pairs) {
    if (count == 16) return Registers::interleave_sixteen(left, right, pairs);
    uint8_t bytes[32] = {}, out[64];
    std::memcpy(bytes, left, static_cast<size_t>(count));
    std::memcpy(bytes + 16, right, static_cast<size_t>(count));
    Registers::interleave_sixteen(bytes, bytes + 16, out);
    std::memcpy(pairs, out, 4 * static_cast<size_t>(count));
  }
};

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_LANES_H_
