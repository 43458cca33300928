// Masks of weights and of blocks.

#include "engine/format/masks.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "engine/format/codes.h"
#include "engine/format/error.h"

namespace micronet::engine {
namespace {

// How eight codes that lie side by side get to the places of a byte's bits. The nth goes as many
// places up as flags below its own are 0: by four, two and one, as that number is made of them. The
// further up a code lies, the further it goes, so that none meets another on the way.
struct Moves {
  std::array<uint64_t, 3> to{};  // places that take the code four, two, one below
  uint64_t kept = 0;
  size_t count = 0;
};

constexpr std::array<Moves, 256> moves_of_bytes() {
  std::array<Moves, 256> all{};
  for (unsigned flags = 0; flags < 256; ++flags) {
    Moves& moves = all[flags];
    for (unsigned bit = 0; bit < 8; ++bit) {
      if ((flags >> bit & 1) == 0) continue;
      moves.kept |= uint64_t{255} << 8 * bit;
      const unsigned way = bit - static_cast<unsigned>(moves.count);
      unsigned place = static_cast<unsigned>(moves.count++);
      for (unsigned step = 0; step < 3; ++step) {
        if ((way & 4u >> step) == 0) continue;
        place += 4u >> step;
        moves.to[step] |= uint64_t{255} << 8 * place;
      }
    }
  }
  return all;
}

constexpr std::array<Moves, 256> kMoves = moves_of_bytes();

bool flag_at(std::span<const uint8_t> mask, int64_t bit) {
  return mask[static_cast<size_t>(bit / 8)] >> (bit % 8) & 1;
}

// Whether a weight is kept cannot be guessed, so nothing branches on it. `stored` can be read
// behind its last one.
template <typename T>
void expand_flags(std::span<const uint8_t> mask, int64_t bit, const T* stored,
                  std::vector<T>* all) {
  for (; bit < static_cast<int64_t>(all->size()); ++bit) {
    T& to = (*all)[static_cast<size_t>(bit)];
    const bool is_kept = flag_at(mask, bit);
    to = is_kept ? *stored : to;
    stored += is_kept;
  }
}

void expand_bits(std::span<const uint8_t> mask, std::vector<float> stored,
                 std::vector<float>* all) {
  stored.push_back(0.0f);  // is read behind the last one
  expand_flags(mask, 0, stored.data(), all);
}

void expand_bits(std::span<const uint8_t> mask, std::vector<uint8_t> stored,
                 std::vector<uint8_t>* all) {
  stored.resize(stored.size() + kReadBehind);
  const uint8_t* from = stored.data();
  const size_t whole = all->size() / 8;
  for (size_t i = 0; i < whole; ++i) {
    const Moves& moves = kMoves[mask[i]];
    uint64_t codes, before;
    std::memcpy(&codes, from, 8);
    std::memcpy(&before, all->data() + 8 * i, 8);
    codes = (codes & ~moves.to[0]) | (codes << 32 & moves.to[0]);
    codes = (codes & ~moves.to[1]) | (codes << 16 & moves.to[1]);
    codes = (codes & ~moves.to[2]) | (codes << 8 & moves.to[2]);
    codes = (codes & moves.kept) | (before & ~moves.kept);
    std::memcpy(all->data() + 8 * i, &codes, 8);
    from += moves.count;
  }
  expand_flags(mask, static_cast<int64_t>(8 * whole), from, all);
}

// How the matrix of a layer's blocks lies in its weights.
struct Matrix {
  bool channels_last;
  int64_t depth, channels, area;

  explicit Matrix(const Layer& of)
      : channels_last(of.channels_last),
        depth(of.depth()),
        channels(of.shape[1]),
        area(of.is_conv() ? of.shape[2] * of.shape[3] : 1) {}

  // Copies entries of a row from a column on.
  template <typename T>
  void put(const T* from, int64_t count, int64_t row, int64_t column, T* all) const {
    T* to = all + row * depth;
    if (!channels_last) {
      std::copy_n(from, count, to + column);
      return;
    }
    for (int64_t i = column; i < column + count; ++i, ++from) {
      to[i % channels * area + i / channels] = *from;
    }
  }
};

template <typename T>
void expand_blocks(const Layer& layer, std::span<const uint8_t> mask, const std::vector<T>& stored,
                   const std::string& sentence, std::vector<T>* all) {
  const Matrix matrix(layer);
  const auto [rows, columns] = layer.block;
  const int64_t row_bits = (matrix.depth + columns - 1) / columns;
  const T *from = stored.data(), *end = from + stored.size();
  for (int64_t row = 0; row < layer.outputs(); ++row) {
    int64_t bit = row / rows * row_bits;
    for (int64_t first = 0; first < matrix.depth; first += columns, ++bit) {
      if (!flag_at(mask, bit)) continue;
      const int64_t count = std::min(columns, matrix.depth - first);
      if (end - from < count) refuse(sentence);
      matrix.put(from, count, row, first, all->data());
      from += count;
    }
  }
  require(from == end, sentence);
}

template <typename T>
std::vector<T> expand_any(const Layer& layer, std::span<const uint8_t> mask, std::vector<T> stored,
                          const std::vector<T>& pruned) {
  if (layer.layout == Layout::kDense) return stored;
  const std::string sentence = "layer '" + layer.name + "': its mask does not keep " +
                               std::to_string(layer.values) + " weights";
  const bool has_blocks = layer.layout == Layout::kBlockMask;
  require(has_blocks || count_bits(mask) == stored.size(), sentence);
  std::vector<T> all;
  all.reserve(static_cast<size_t>(layer.numel()));
  for (const T value : pruned) all.insert(all.end(), static_cast<size_t>(layer.depth()), value);
  if (has_blocks) {
    expand_blocks(layer, mask, stored, sentence, &all);
  } else {
    expand_bits(mask, std::move(stored), &all);
  }
  return all;
}

}  // namespace

int64_t mask_bits(const Layer& layer) {
  if (layer.layout == Layout::kBitMask) return layer.numel();
  const auto [rows, columns] = layer.block;
  return (layer.outputs() + rows - 1) / rows * ((layer.depth() + columns - 1) / columns);
}

std::vector<uint8_t> expand(const Layer& layer, std::span<const uint8_t> mask,
                            std::vector<uint8_t> stored, const std::vector<uint8_t>& pruned) {
  return expand_any(layer, mask, std::move(stored), pruned);
}

std::vector<float> expand(const Layer& layer, std::span<const uint8_t> mask,
                          std::vector<float> stored, const std::vector<float>& pruned) {
  return expand_any(layer, mask, std::move(stored), pruned);
}

}  // namespace micronet::engine
