// Codes, masks and digests in steps of eight: each is what one step at a time gives, at every size
// and remainder.

#include <algorithm>
#include <cmath>

#include "engine/format/codes.h"
#include "engine/format/masks.h"
#include "engine/format/sha256.h"
#include "engine/steps/layer_weights.h"
#include "tests/engine/random_layers.h"
#include "tests/engine/refusal.h"

namespace micronet::engine {
namespace {

using Bytes = std::vector<uint8_t>;

// Around units of eight groups and of the eight bytes that are read and written at a time.
constexpr int64_t kCounts[] = {0,  1,  2,  7,  8,  9,  15, 16, 17,  23,  24,  25,   31,
                               32, 33, 39, 40, 41, 63, 64, 65, 127, 128, 129, 1000, 4099};

// Code i, bit by bit.
int code_of(const Bytes& bytes, int64_t i, int levels, Pair packing) {
  int number = 0;
  for (int64_t b = 0; b < packing[1]; ++b) {
    number |= bit(bytes, i / packing[0] * packing[1] + b) << b;
  }
  for (int64_t c = i % packing[0]; c > 0; --c) number /= levels;
  return number % levels;
}

Bytes packed(const Bytes& codes, int levels, Pair packing) {
  Sample sample;
  sample.add_codes("", codes, levels, static_cast<int>(packing[0]), static_cast<int>(packing[1]));
  return sample.tensors.at("").bytes;
}

// No group of more than there can be, wherever it stands.
void bad_codes_are_seen(std::mt19937& random, const Bytes& codes, int levels, Pair packing) {
  const int64_t count = static_cast<int64_t>(codes.size()), last = (int64_t{1} << packing[1]) - 1;
  const int64_t groups = count / packing[0];
  int64_t states = 1;
  for (int64_t c = 0; c < packing[0]; ++c) states *= levels;
  if (states > last || groups == 0) return;
  Bytes bytes = packed(codes, levels, packing);
  const int64_t group = static_cast<int64_t>(random() % static_cast<uint64_t>(groups));
  for (int64_t b = group * packing[1]; b < (group + 1) * packing[1]; ++b) {
    bytes[static_cast<size_t>(b / 8)] |= static_cast<uint8_t>(1 << b % 8);
  }
  check_refused("it has the code", [&] { unpack_codes(bytes, count, levels, packing, "it"); });
}

void what_follows_is_seen(const Bytes& codes, int levels, Pair packing) {
  const int64_t count = static_cast<int64_t>(codes.size());
  Bytes longer = codes;
  longer.push_back(1);
  const Bytes bytes = packed(longer, levels, packing);
  if (count % packing[0] != 0) {
    check_refused("it has a code behind the last one",
                  [&] { unpack_codes(bytes, count, levels, packing, "it"); });
  }
  Bytes whole = packed(codes, levels, packing);
  if ((count + packing[0] - 1) / packing[0] * packing[1] % 8 == 0) return;
  whole.back() |= 128;
  check_refused("it has a bit behind the last one",
                [&] { unpack_codes(whole, count, levels, packing, "it"); });
}

void codes_are_those_of_their_bits(std::mt19937& random) {
  for (int levels = 2; levels <= kMostLevels; ++levels) {
    const CodeGroup tight = code_group(levels);
    for (const Pair& packing : {Pair{1, code_bits(levels)}, Pair{tight.size, tight.bits}}) {
      for (const int64_t count : kCounts) {
        if (levels > 20 && count > 129 && levels % 16 > 1) continue;
        const size_t size = static_cast<size_t>(count);
        const uint8_t most = static_cast<uint8_t>(levels - 1);
        for (const Bytes& codes :
             {random_codes(random, size, levels), Bytes(size, 0), Bytes(size, most)}) {
          const Bytes bytes = packed(codes, levels, packing);
          CHECK(unpack_codes(bytes, count, levels, packing, "it") == codes);
          for (int64_t i = 0; i < count; ++i) {
            CHECK(codes[static_cast<size_t>(i)] == code_of(bytes, i, levels, packing));
          }
          bad_codes_are_seen(random, codes, levels, packing);
          what_follows_is_seen(codes, levels, packing);
        }
      }
    }
  }
}

void bits_are_counted(std::mt19937& random) {
  for (const int64_t count : kCounts) {
    const Bytes data = bytes(random, count);
    size_t found = 0;
    for (int64_t i = 0; i < 8 * count; ++i) found += bit(data, i);
    CHECK(count_bits(data) == found);
  }
}

Layer layer_of(const Sizes& shape, Layout layout, const Pair& block, bool channels_last) {
  Layer layer{};
  layer.name = "it";
  layer.shape = shape;
  layer.layout = layout;
  layer.block = block;
  layer.channels_last = channels_last;
  return layer;
}

// The bit of the mask that keeps the weight of a row and column, the column being of the matrix of
// blocks; and where the weight lies.
int64_t bit_of(const Layer& layer, int64_t row, int64_t column) {
  if (layer.layout == Layout::kBitMask) return row * layer.depth() + column;
  const int64_t across = (layer.depth() + layer.block[1] - 1) / layer.block[1];
  return row / layer.block[0] * across + column / layer.block[1];
}

int64_t place_of(const Layer& layer, int64_t row, int64_t column) {
  if (!layer.channels_last) return row * layer.depth() + column;
  const int64_t channels = layer.shape[1], area = layer.depth() / channels;
  return row * layer.depth() + column % channels * area + column / channels;
}

// A mask that keeps one bit in `share`, all where it is 1 and none where it is 0.
Bytes some_mask(std::mt19937& random, int64_t bits, unsigned share) {
  Bytes mask(static_cast<size_t>(bytes_for_bits(bits)));
  for (int64_t i = 0; i < bits; ++i) {
    const bool is_kept = share > 0 && random() % share == 0;
    mask[static_cast<size_t>(i / 8)] |= static_cast<uint8_t>(is_kept << i % 8);
  }
  return mask;
}

template <typename T>
void weights_are_where_they_are_kept(std::mt19937& random, Layer layer, unsigned share) {
  const Bytes mask = some_mask(random, mask_bits(layer), share);
  std::vector<T> stored, pruned;
  for (int64_t o = 0; o < layer.outputs(); ++o) pruned.push_back(static_cast<T>(random() % 256));
  std::vector<T> wanted(static_cast<size_t>(layer.numel()));
  for (int64_t row = 0; row < layer.outputs(); ++row) {
    for (int64_t column = 0; column < layer.depth(); ++column) {
      const bool is_kept = bit(mask, bit_of(layer, row, column));
      if (is_kept) stored.push_back(static_cast<T>(random() % 256));
      wanted[static_cast<size_t>(place_of(layer, row, column))] =
          is_kept ? stored.back() : pruned[static_cast<size_t>(row)];
    }
  }
  layer.values = static_cast<int64_t>(stored.size());
  CHECK(expand(layer, mask, stored, pruned) == wanted);
  std::vector<T> more = stored;
  more.push_back(T{});
  const std::string sentence = "layer 'it': its mask does not keep";
  check_refused(sentence, [&] { expand(layer, mask, more, pruned); });
  if (stored.empty()) return;
  stored.pop_back();
  check_refused(sentence, [&] { expand(layer, mask, stored, pruned); });
}

void masks_of_every_size(std::mt19937& random) {
  const auto check = [&](const Layer& layer) {
    for (const unsigned share : {0u, 1u, 2u, 3u, 11u}) {
      weights_are_where_they_are_kept<uint8_t>(random, layer, share);
      weights_are_where_they_are_kept<float>(random, layer, share);
    }
  };
  for (const int64_t depth : kCounts) {
    if (depth == 0) continue;
    for (const int64_t outputs : {1, 2, 3, 5}) {
      check(layer_of({outputs, depth}, Layout::kBitMask, {}, false));
    }
    check(layer_of({3, depth, 3, 1}, Layout::kBitMask, {}, false));
  }
  for (const Pair& block : {Pair{1, 1}, {2, 4}, {4, 2}, {1, 16}, {16, 1}, {8, 6}}) {
    for (const bool channels_last : {false, true}) {
      for (const int64_t outputs : {1, 7, 8, 17}) {
        check(layer_of({outputs, 5, 2, 3}, Layout::kBlockMask, block, channels_last));
        check(layer_of({outputs, 13}, Layout::kBlockMask, block, channels_last));
      }
    }
  }
  Layer dense = layer_of({3, 5}, Layout::kDense, {}, false);
  const Bytes all = bytes(random, 15);
  CHECK(expand(dense, {}, all, Bytes(3)) == all);
}

// All 256 bytes of a mask, each between all others' neighbors.
void every_byte_of_a_mask(std::mt19937& random) {
  const Layer layer = layer_of({1, 8 * 256}, Layout::kBitMask, {}, false);
  Bytes mask(256), stored = bytes(random, 8 * 256 / 2);
  for (size_t i = 0; i < 256; ++i) mask[i] = static_cast<uint8_t>(i);
  const Bytes all = expand(layer, mask, stored, {7});
  size_t next = 0;
  for (int64_t i = 0; i < 8 * 256; ++i) {
    CHECK(all[static_cast<size_t>(i)] == (bit(mask, i) ? stored[next++] : 7));
  }
  CHECK(next == stored.size());
}

LayerTensors some_tensors(std::mt19937& random, int64_t outputs, int64_t depth, int levels) {
  LayerTensors tensors;
  tensors.codes = random_codes(random, static_cast<size_t>(outputs * depth), levels);
  tensors.zero_point = random_codes(random, static_cast<size_t>(outputs), levels);
  tensors.scale = random_scales(random, static_cast<size_t>(outputs));
  // The ends of what there can be.
  std::fill_n(tensors.codes.begin(), depth, static_cast<uint8_t>(levels - 1));
  std::fill_n(tensors.codes.end() - depth, depth, uint8_t{0});
  tensors.zero_point.front() = 0;
  tensors.zero_point.back() = static_cast<uint8_t>(levels - 1);
  return tensors;
}

// The largest sum is that of the codes which are the worst for each weight.
void bounds_are_the_largest_sums(std::mt19937& random) {
  for (const int levels : {2, 5, 16, 128, 255, 256}) {
    for (const int64_t depth : {1, 2, 15, 16, 17, 255, 256, 257, 511, 512, 513, 1000}) {
      const Layer layer = layer_of({4, depth}, Layout::kDense, {}, false);
      const LayerTensors tensors = some_tensors(random, 4, depth, levels);
      const int of = 2 + static_cast<int>(random() % 255);
      const StoredQuantizer input{1.0f, static_cast<int>(random() % static_cast<unsigned>(of)), of};
      const std::vector<int64_t> bounds = bounds_of(layer, tensors, input);
      for (int64_t o = 0; o < 4; ++o) {
        int64_t low = 0, high = 0;
        for (int64_t k = 0; k < depth; ++k) {
          const int64_t w = int64_t{tensors.codes[static_cast<size_t>(o * depth + k)]} -
                            tensors.zero_point[static_cast<size_t>(o)];
          const int64_t one = w * -input.zero_point, other = w * (of - 1 - input.zero_point);
          low += std::min(one, other), high += std::max(one, other);
        }
        CHECK(bounds[static_cast<size_t>(o)] == std::max(-low, high));
      }
    }
  }
}

// Integers of weights take a byte where they fit one, and are the floats else.
void weights_of_linear_layers(std::mt19937& random) {
  for (const int levels : {2, 5, 16, 128, 129, 130, 255, 256}) {
    for (const int64_t depth : {1, 7, 64, 100}) {
      for (const Sums sums : {Sums::kScaled, Sums::kFloat}) {
        Layer layer = layer_of({3, depth}, Layout::kDense, {}, false);
        layer.levels = levels, layer.sums = sums;
        LayerTensors tensors = some_tensors(random, 3, depth, levels);
        if (random() % 2 == 0) std::fill(tensors.scale.begin(), tensors.scale.end(), 1.0f);
        const std::vector<float> floats = floats_of(layer, tensors);
        const LinearWeights found(layer, tensors);
        const bool are_bytes = std::all_of(floats.begin(), floats.end(), [](float w) {
          return w == std::nearbyint(w) && w >= -128.0f && w <= 127.0f;
        });
        CHECK(found.bytes.empty() == !are_bytes && found.floats.empty() == are_bytes);
        CHECK(are_bytes ? std::equal(floats.begin(), floats.end(), found.bytes.begin())
                        : found.floats == floats);
      }
    }
  }
}

// Whatever instructions the rounds are made of, and wherever the bytes lie.
void digests_are_the_same(std::mt19937& random) {
  const std::span<const Sha256Way> ways = sha256_ways();
  CHECK(!ways.empty());
  const Bytes data = bytes(random, 5000);
  for (const Sha256Way& way : ways) {
    std::printf("SHA-256: %s\n", way.name);
    const std::string text = "abc", million(1000000, 'a');
    const auto digest = [&](const std::string& s) {
      return sha256({reinterpret_cast<const uint8_t*>(s.data()), s.size()}, way);
    };
    // FIPS 180-4, examples.
    CHECK(digest(text) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(digest(million) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    for (size_t size = 0; size < 300; ++size) {
      const std::span<const uint8_t> part(data.data() + random() % 4000, size);
      CHECK(sha256(part, way) == sha256(part, ways.front()));
    }
  }
}

}  // namespace
}  // namespace micronet::engine

namespace micronet {

void run_tests(std::mt19937& random) {
  engine::codes_are_those_of_their_bits(random);
  engine::bits_are_counted(random);
  engine::masks_of_every_size(random);
  engine::every_byte_of_a_mask(random);
  engine::bounds_are_the_largest_sums(random);
  engine::weights_of_linear_layers(random);
  engine::digests_are_the_same(random);
}

}  // namespace micronet
