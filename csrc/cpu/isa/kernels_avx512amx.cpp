// Dot products of codes by tiles (AMX): sixteen pixels by sixteen channels by up to 64 products at
// a time. All other loops are those of avx512vnni.

#include <algorithm>

#include "cpu/isa/vector_avx512.h"
// The vector first, then what is built on it.
#include "cpu/isa/dots_avx512.h"
// The loops need both above them.
#include "cpu/isa/kernels_avx512.h"
#include "cpu/isa/loops_conv.h"

namespace micronet {
namespace {

constexpr int64_t kMostRows = 16;   // pixels of a tile
constexpr int64_t kLeastDeep = 16;  // below, vectors are as fast

// What LDTILECFG reads: rows and bytes of a row of each tile, for palette 1.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  // Tiles 0 to 3 are sums, 4 and 5 codes, 6 and 7 weights.
  TileConfig(int64_t pixels, int64_t deep) {
    for (int t = 0; t < 8; ++t) {
      rows[t] = static_cast<uint8_t>(t < 6 ? pixels : deep / kPack);
      row_bytes[t] = static_cast<uint16_t>(t == 4 || t == 5 ? deep : 64);
    }
  }
};
static_assert(sizeof(TileConfig) == 64);

// The compiler's functions want the number of a tile as a token.
template <int kTile>
void zero_tile() {
  if constexpr (kTile == 0) _tile_zero(0);
  if constexpr (kTile == 1) _tile_zero(1);
  if constexpr (kTile == 2) _tile_zero(2);
  if constexpr (kTile == 3) _tile_zero(3);
}

template <int kTile>
void load_tile(const int32_t* p, int64_t stride) {
  if constexpr (kTile == 0) _tile_loadd(0, p, stride);
  if constexpr (kTile == 1) _tile_loadd(1, p, stride);
  if constexpr (kTile == 2) _tile_loadd(2, p, stride);
  if constexpr (kTile == 3) _tile_loadd(3, p, stride);
}

template <int kTile>
void store_tile(int32_t* p, int64_t stride) {
  if constexpr (kTile == 0) _tile_stored(0, p, stride);
  if constexpr (kTile == 1) _tile_stored(1, p, stride);
  if constexpr (kTile == 2) _tile_stored(2, p, stride);
  if constexpr (kTile == 3) _tile_stored(3, p, stride);
}

// Where sums start and end: at 0, to be gone through once more, or at their channels' correction,
// to be written as they are.
struct TileSums {
  const ConvTile& tile;
  int64_t rows, deep;
  bool is_direct;

  TileSums(const ConvTile& of, int64_t pixels, int64_t products)
      : tile(of),
        rows(pixels),
        deep(products),
        is_direct(of.kind == kInt32 && of.offset == nullptr && !of.streamed) {}

  template <int kTile>
  void start(int64_t channel) const {
    if (is_direct) {
      load_tile<kTile>(tile.correction + channel, 0);  // the same row sixteen times
    } else {
      zero_tile<kTile>();
    }
  }

  template <int kTile>
  void store(int64_t pixel, int64_t channel) const {
    if (is_direct && tile.out_channels - channel >= kWidth) {
      int32_t* out = static_cast<int32_t*>(tile.out) + pixel * tile.out_stride + channel;
      store_tile<kTile>(out, 4 * tile.out_stride);
      return;
    }
    alignas(64) int32_t sums[kMostRows * kWidth];
    store_tile<kTile>(sums, 4 * kWidth);
    for (int64_t p = 0; p < rows; ++p) {
      const Dots row = Dots::load(sums + p * kWidth);
      if (is_direct) {
        int32_t* out = static_cast<int32_t*>(tile.out) + (pixel + p) * tile.out_stride + channel;
        row.store(out, static_cast<int>(tile.out_channels - channel), false);
      } else {
        store_sums(row, tile, pixel + p, channel);
      }
    }
  }

  // Those of panels side by side. Of lines that leave the caches both halves are written one after
  // the other: a half that leaves alone takes as long as a line.
  template <int kTile>
  void store_two(int64_t pixel, int64_t channel) const {
    if (!tile.streamed) {
      store<kTile>(pixel, channel);
      store<kTile + 1>(pixel, channel + kWidth);
      return;
    }
    alignas(64) int32_t sums[2][kMostRows * kWidth];
    store_tile<kTile>(sums[0], 4 * kWidth);
    store_tile<kTile + 1>(sums[1], 4 * kWidth);
    for (int64_t p = 0; p < rows; ++p) {
      store_sums(Dots::load(sums[0] + p * kWidth), tile, pixel + p, channel);
      store_sums(Dots::load(sums[1] + p * kWidth), tile, pixel + p, channel + kWidth);
    }
  }
};

// Products [k, k + deep) of two panels, or of one.
template <bool kWide>
void load_weights(const TileSums& sums, int64_t channel, int64_t k) {
  const int8_t* panel = sums.tile.panels + channel * sums.tile.depth + k * kWidth;
  _tile_loadd(6, panel, kPanelBytes);
  if constexpr (kWide) _tile_loadd(7, panel + kWidth * sums.tile.depth, kPanelBytes);
}

// The sums of two tiles of pixels, or of one, by two panels of channels, or by one. Where `kOnce`,
// the weights of all products are loaded already.
template <bool kTall, bool kWide, bool kOnce>
void tile_block(const TileSums& sums, int64_t pixel, int64_t channel) {
  const ConvTile& tile = sums.tile;
  sums.start<0>(channel);
  if constexpr (kWide) sums.start<1>(channel + kWidth);
  if constexpr (kTall) sums.start<2>(channel);
  if constexpr (kTall && kWide) sums.start<3>(channel + kWidth);
  const uint8_t* x = tile.x + pixel * tile.x_stride;
  for (int64_t k = 0; k < tile.depth; k += sums.deep) {
    _tile_loadd(4, x + k, tile.x_stride);
    if constexpr (!kOnce) load_weights<kWide>(sums, channel, k);
    _tile_dpbusd(0, 4, 6);
    if constexpr (kWide) _tile_dpbusd(1, 4, 7);
    if constexpr (kTall) {
      _tile_loadd(5, x + sums.rows * tile.x_stride + k, tile.x_stride);
      _tile_dpbusd(2, 5, 6);
    }
    if constexpr (kTall && kWide) _tile_dpbusd(3, 5, 7);
  }
  if constexpr (kWide) {
    sums.store_two<0>(pixel, channel);
    if constexpr (kTall) sums.store_two<2>(pixel + sums.rows, channel);
  } else {
    sums.store<0>(pixel, channel);
    if constexpr (kTall) sums.store<2>(pixel + sums.rows, channel);
  }
}

// All pixels, the last ones together with some before them where they do not fill a tile.
template <bool kWide, bool kOnce>
void tile_pixels(const TileSums& sums, int64_t channel) {
  const int64_t pixels = sums.tile.pixels, rows = sums.rows;
  if constexpr (kOnce) load_weights<kWide>(sums, channel, 0);
  int64_t p = 0;
  for (; p + 2 * rows <= pixels; p += 2 * rows) tile_block<true, kWide, kOnce>(sums, p, channel);
  for (; p < pixels; p += rows) {
    tile_block<false, kWide, kOnce>(sums, p + rows <= pixels ? p : pixels - rows, channel);
  }
}

template <bool kOnce>
void tile_channels(const TileSums& sums) {
  int64_t channel = 0;
  for (; sums.tile.out_channels - channel > kWidth; channel += 2 * kWidth) {
    tile_pixels<true, kOnce>(sums, channel);
  }
  if (channel < sums.tile.out_channels) tile_pixels<false, kOnce>(sums, channel);
}

}  // namespace

void dot_tile_amx(const ConvTile& tile) {
  // All rows of a depth are alike, as another size would empty the tiles.
  const int64_t deep = tile_products(tile.depth);
  const bool pays = tile.pixels >= kMostRows && deep >= kLeastDeep;
  if (!pays) return dot_tile_vnni(tile);
  // As few tiles as there can be, and pairs of them, each with as few rows as that leaves.
  const int64_t tiles = (tile.pixels + 2 * kMostRows - 1) / (2 * kMostRows) * 2;
  const int64_t rows = std::min((tile.pixels + tiles - 1) / tiles, kMostRows);
  const TileConfig config(rows, deep);
  _tile_loadconfig(&config);
  const TileSums sums(tile, rows, deep);
  deep == tile.depth ? tile_channels<true>(sums) : tile_channels<false>(sums);
  _tile_release();
  Vector::fence();
}

}  // namespace micronet
