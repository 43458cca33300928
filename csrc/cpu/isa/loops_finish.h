// What follows the sums of a convolution while they are in a near cache: values, sums by lanes,
// codes.
#ifndef MICRONET_CPU_ISA_LOOPS_FINISH_H_
#define MICRONET_CPU_ISA_LOOPS_FINISH_H_

#include <type_traits>

#include "cpu/isa/loops.h"
#include "cpu/isa/loops_block.h"
#include "include/exact.h"

namespace micronet {
namespace {

constexpr int64_t kFinishChannels = 256;  // whose values of a pixel are at hand at a time

// The function of a tile, and swish of arguments that are near.
constexpr int kSwishOfNear = 4;

template <typename V, typename F>
MICRONET_INLINE V activate_vector(V z, V most, F) {
  if constexpr (F::value == kSwishOfNear) return V::swish_near(z);
  if constexpr (F::value == kSwish) return V::swish(z);
  if constexpr (F::value == kSigmoid) return V::sigmoid(z);
  // As `activate` chooses: NaN stays, and so does -0.
  if constexpr (F::value == kRelu) {
    return V::min(most, V::select(V::below(z, V::all(0.0f)), V::all(0.0f), z));
  }
  return z;
}

MICRONET_INLINE float* lane_of(const FinishTile& tile, int64_t pixel) {
  return tile.lanes + (tile.lane + pixel) % kLanes * tile.lane_stride;
}

// Sums to all that is wanted of them in one pass, where a vector V has the functions.
template <typename V, typename T, typename F>
bool finish_in_registers(const FinishTile& of, const T* acc, const Quantizer& q, F function) {
  const FinishTile tile = of;  // a copy, which no store can change: bytes may alias everything
  const typename V::Rounder round(q);
  const V most = V::all(tile.most);
  V bad = V::all(0.0f);  // NaN where a value has no code
  for (int64_t p = 0; p < tile.pixels; ++p) {
    const int64_t at = p * tile.out_stride;
    const T* sums = acc + p * tile.acc_stride;
    float* lane = tile.lanes == nullptr ? nullptr : lane_of(tile, p);
    for_vectors(tile.channels, [&](int64_t c, int count) MICRONET_LAMBDA {
      V v = activate_vector(V::fma(V::load_whole(sums + c, count), load(tile.scale + c, count),
                                   load(tile.shift + c, count)),
                            most, function);
      if (tile.addend != nullptr) v = v + load(tile.addend + at + c, count);
      if (tile.values != nullptr) store(v, tile.values + at + c, count);
      if (lane != nullptr) store(load(lane + c, count) + v, lane + c, count);
      if (tile.codes != nullptr) {
        bad = V::fma(v, V::all(0.0f), bad);
        store_codes<false>(round(v), at + c, count, tile.codes);
      }
    });
  }
  return V::bits(V::is_nan(bad)) == 0;
}

// Nothing but codes, of finite arguments, where the function only brings them to a range.
template <typename V, typename T>
void finish_codes(const FinishTile& of, const T* acc, const Quantizer& q) {
  const FinishTile tile = of;
  typename V::Rounder round(q);
  if (tile.function == kRelu) round.keep_between(0.0f, tile.most);
  const auto code_at = [&](const T* sums, int64_t c, int count) MICRONET_LAMBDA {
    return round(V::fma(V::load_whole(sums + c, count), load(tile.scale + c, count),
                        load(tile.shift + c, count)));
  };
  constexpr int64_t kFour = 4 * kWidth;
  for (int64_t p = 0; p < tile.pixels; ++p) {
    const T* sums = acc + p * tile.acc_stride;
    uint8_t* codes = tile.codes + p * tile.out_stride;
    int64_t c = 0;
    for (; c + kFour <= tile.channels; c += kFour) {
      typename V::Whole four[4];
      for (int i = 0; i < 4; ++i) four[i] = code_at(sums, c + i * kWidth, kWidth);
      V::store_bytes_of_four(four, codes + c);
    }
    for_vectors(tile.channels - c, [&](int64_t i, int count) MICRONET_LAMBDA {
      store_codes<false>(code_at(sums, c + i, count), c + i, count, codes);
    });
  }
}

// Values of `count` neighboring channels of a pixel.
template <typename T, typename F>
MICRONET_INLINE void finish_values(const T* acc, const float* scale, const float* shift, float most,
                                   int64_t count, float* values, F) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const float v = activate<F::value>(fmaf(static_cast<float>(acc[i]), scale[i], shift[i]));
    values[i] = F::value == kRelu && v > most ? most : v;
  }
}

MICRONET_INLINE void add_to(const float* terms, int64_t count, float* sums) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) sums[i] += terms[i];
}

// The same in passes over a few values, which the compiler makes vectors of.
template <typename T, typename F>
bool finish_in_passes(const FinishTile& tile, const T* acc, const Quantizer& quantizer,
                      F function) {
  const Lanes q(quantizer);
  float near[kFinishChannels];
  uint32_t bad = 0;
  for (int64_t p = 0; p < tile.pixels; ++p) {
    for (int64_t c = 0; c < tile.channels; c += kFinishChannels) {
      const int64_t left = tile.channels - c, at = p * tile.out_stride + c;
      const int64_t count = left < kFinishChannels ? left : kFinishChannels;
      float* values = tile.values != nullptr ? tile.values + at : near;
      finish_values(acc + p * tile.acc_stride + c, tile.scale + c, tile.shift + c, tile.most, count,
                    values, function);
      if (tile.addend != nullptr) add_to(tile.addend + at, count, values);
      if (tile.lanes != nullptr) add_to(values, count, lane_of(tile, p) + c);
      if (tile.codes == nullptr) continue;
      for_vectors(count, [&](int64_t i, int some) MICRONET_LAMBDA {
        const Vector v = load(values + i, some);
        bad |= ~Vector::bits(Vector::is_finite(v)) & ((1u << some) - 1);
        store_codes<false>(q.index(v), at + i, some, tile.codes);
      });
    }
  }
  return bad == 0;
}

template <typename V, typename T>
bool finish_by_values(const FinishTile& tile, const T* acc) {
  const Quantizer q = tile.quantizer != nullptr ? *tile.quantizer : Quantizer{};
  bool is_finite = true;
  if constexpr (V::kIsFinisher) {
    if (tile.function == kSwish && tile.is_near) {
      return finish_in_registers<V>(tile, acc, q, Chosen<kSwishOfNear>());
    }
  }
  with_function(tile.function, [&](auto function) {
    if constexpr (V::kIsFinisher) {
      is_finite = finish_in_registers<V>(tile, acc, q, function);
    } else {
      is_finite = finish_in_passes(tile, acc, q, function);
    }
  });
  return is_finite;
}

// The table in registers, where a vector V has them.
template <typename V, int kEntries, typename T>
void finish_by_table(const FinishTile& of, const T* acc) {
  const FinishTile tile = of;
  const CodeTable& table = *tile.table;
  const typename V::template Entries<kEntries> entries(table.thresholds, table.codes);
  const V spread = V::all(table.spread), offset = V::all(table.offset);
  const V last = V::all(static_cast<float>(kEntries - 1)), zero = V::all(0.0f);
  for (int64_t p = 0; p < tile.pixels; ++p) {
    const T* sums = acc + p * tile.acc_stride;
    uint8_t* codes = tile.codes + p * tile.out_stride;
    for_vectors(tile.channels, [&](int64_t c, int count) MICRONET_LAMBDA {
      const V t = V::fma(V::load_whole(sums + c, count), load(tile.scale + c, count),
                         load(tile.shift + c, count));
      const V place = V::fma(t, spread, offset);
      const auto index = V::whole(V::min(V::max(place, zero), last));
      store_codes<false>(entries.codes_at(index, t), c, count, codes);
    });
  }
}

template <typename V, typename T>
bool finish_sums(const FinishTile& tile, const T* acc) {
  if constexpr (V::kIsFinisher && std::is_integral<T>::value) {
    const bool only_codes =
        tile.codes != nullptr && tile.values == nullptr && tile.lanes == nullptr;
    const bool only_clamps = tile.function == kIdentity || tile.function == kRelu;
    if (only_codes && only_clamps && tile.is_finite && tile.addend == nullptr) {
      finish_codes<V>(tile, acc, *tile.quantizer);
      return true;
    }
    if (tile.table != nullptr && only_codes) {
      tile.table->entries == 32 ? finish_by_table<V, 32>(tile, acc)
                                : finish_by_table<V, 64>(tile, acc);
      return true;
    }
  }
  return finish_by_values<V>(tile, acc);
}

inline bool finish_tile(const FinishTile& tile) {
  bool is_finite = true;
  with_sums(tile.acc, tile.type, [&](auto acc) { is_finite = finish_sums<Vector>(tile, acc); });
  return is_finite;
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_LOOPS_FINISH_H_
