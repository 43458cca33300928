// Dot products of codes by tiles (AMX): sixteen pixels by sixteen channels by up to 64 products at a
// time. All other loops are those of avx512vnni.

#include "cpu/isa/vector_avx512.h"
// The vector first, then what is built on it.
#include "cpu/isa/dots_avx512.h"
// The loops need both above them.
#include "cpu/isa/kernels_avx512amx.h"
#include "cpu/isa/loops_conv.h"

namespace micronet {
namespace {

constexpr int64_t kRows = 16;       // pixels of a tile
constexpr int64_t kMostDeep = 64;   // products of a row
constexpr int64_t kLeastDeep = 32;  // below, vectors are as fast

// What LDTILECFG reads: rows and bytes of a row of each tile, for palette 1.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  // Tiles 0 to 3 are sums, 4 and 5 codes, 6 and 7 weights.
  explicit TileConfig(int64_t deep) {
    for (int t = 0; t < 8; ++t) {
      rows[t] = static_cast<uint8_t>(t < 6 ? kRows : deep / kPack);
      row_bytes[t] = static_cast<uint16_t>(t == 4 || t == 5 ? deep : 64);
    }
  }
};
static_assert(sizeof(TileConfig) == 64);

// Products of a row: all rows of a depth are alike, as another size would empty the tiles.
int64_t deep_of(int64_t depth) {
  int64_t deep = depth < kMostDeep ? depth : kMostDeep;
  while (depth % deep != 0) deep -= kPack;
  return deep;
}

// The sums of kPixels * 16 by kPanels * 16 outputs.
template <int kPixels, int kPanels>
struct TileBlock {
  const ConvTile& tile;
  int64_t deep;

  void run(int64_t pixel, int64_t channel) const {
    start();
    const uint8_t* x = tile.x + pixel * tile.x_stride;
    const int8_t* panel = tile.panels + channel * tile.depth;
    const int64_t next = kWidth * tile.depth, rows = kRows * tile.x_stride;
    for (int64_t k = 0; k < tile.depth; k += deep) {
      _tile_loadd(4, x + k, tile.x_stride);
      _tile_loadd(6, panel + k * kWidth, kPanelBytes);
      _tile_dpbusd(0, 4, 6);
      if constexpr (kPanels == 2) {
        _tile_loadd(7, panel + next + k * kWidth, kPanelBytes);
        _tile_dpbusd(1, 4, 7);
      }
      if constexpr (kPixels == 2) {
        _tile_loadd(5, x + rows + k, tile.x_stride);
        _tile_dpbusd(2, 5, 6);
        if constexpr (kPanels == 2) _tile_dpbusd(3, 5, 7);
      }
    }
    store(pixel, channel);
  }

 private:
  static void start() {
    _tile_zero(0);
    if constexpr (kPanels == 2) _tile_zero(1);
    if constexpr (kPixels == 2) _tile_zero(2);
    if constexpr (kPixels == 2 && kPanels == 2) _tile_zero(3);
  }

  void store(int64_t pixel, int64_t channel) const {
    alignas(64) int32_t sums[kPixels * kPanels][kRows * kWidth];
    _tile_stored(0, sums[0], 4 * kWidth);
    if constexpr (kPanels == 2) _tile_stored(1, sums[1], 4 * kWidth);
    if constexpr (kPixels == 2) _tile_stored(2, sums[kPanels], 4 * kWidth);
    if constexpr (kPixels == 2 && kPanels == 2) _tile_stored(3, sums[3], 4 * kWidth);
    for (int64_t p = 0; p < kPixels * kRows; ++p) {
      for (int64_t c = 0; c < kPanels; ++c) {
        const int32_t* row = sums[p / kRows * kPanels + c] + p % kRows * kWidth;
        store_sums(Dots::load(row), tile, pixel + p, channel + c * kWidth);
      }
    }
  }
};

// All pixels, the last ones together with some before them where they do not fill a tile.
template <int kPanels>
void tile_pixels(const ConvTile& tile, int64_t deep, int64_t channel) {
  int64_t p = 0;
  for (; p + 2 * kRows <= tile.pixels; p += 2 * kRows) {
    TileBlock<2, kPanels>{tile, deep}.run(p, channel);
  }
  for (; p < tile.pixels; p += kRows) {
    const int64_t first = p + kRows <= tile.pixels ? p : tile.pixels - kRows;
    TileBlock<1, kPanels>{tile, deep}.run(first, channel);
  }
}

}  // namespace

void dot_tile_amx(const ConvTile& tile) {
  const int64_t deep = deep_of(tile.depth);
  const bool pays = tile.pixels >= kRows && deep >= kLeastDeep;
  if (!pays) return kVnniKernels.dot_tile(tile);
  const TileConfig config(deep);
  _tile_loadconfig(&config);
  int64_t channel = 0;
  for (; tile.out_channels - channel > kWidth; channel += 2 * kWidth) {
    tile_pixels<2>(tile, deep, channel);
  }
  if (channel < tile.out_channels) tile_pixels<1>(tile, deep, channel);
  _tile_release();
  Vector::fence();
}

}  // namespace micronet
