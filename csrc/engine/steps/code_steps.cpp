// Between values and codes.

#include <algorithm>
#include <atomic>

#include "cpu/parallel.h"
#include "engine/steps/finish.h"

namespace micronet::engine {
namespace {

// Values that are taken for the channels of a pixel.
constexpr int64_t kRow = 256;

class QuantizeValues : public Step {
 public:
  QuantizeValues(const StoredQuantizer& to, int64_t numel, int from, int into, std::string name)
      : q_(quantizer_of(to)),
        ones_(kRow, 1.0f),
        nothing_(kRow, kNothing),
        numel_(numel),
        from_(from),
        into_(into),
        name_(std::move(name)) {}

  void run(const Run& run) const override {
    std::atomic<bool> is_finite{true};
    for_blocks(run.parallel, run.batch * numel_, [&](int64_t first, int64_t count) {
      FinishTile tile = tile_of(run, first, kRow);
      tile.pixels = count / kRow;
      bool finite = kernels().finish_tile(tile);
      tile = tile_of(run, first + count / kRow * kRow, count % kRow);
      tile.pixels = 1;
      if (tile.channels > 0) finite &= kernels().finish_tile(tile);
      if (!finite) is_finite.store(false, std::memory_order_relaxed);
    });
    require_finite(is_finite, name_);
  }

 private:
  FinishTile tile_of(const Run& run, int64_t first, int64_t channels) const {
    FinishTile tile{};
    tile.acc = run.at<float>(from_) + first;
    tile.type = kValue;
    tile.acc_stride = tile.out_stride = tile.channels = channels;
    tile.scale = ones_.data();
    tile.shift = nothing_.data();
    tile.codes = run.at<uint8_t>(into_) + first;
    tile.quantizer = &q_;
    return tile;
  }

  Quantizer q_;
  std::vector<float> ones_, nothing_;
  int64_t numel_;
  int from_, into_;
  std::string name_;
};

class GateCodes : public Step {
 public:
  GateCodes(const Sizes& shape, const StoredQuantizer& quantizer, int from, int by, int to,
            std::string name)
      : q_(quantizer_of(quantizer)),
        channels_(shape[0]),
        positions_(shape[1] * shape[2]),
        nothing_(static_cast<size_t>(channels_), kNothing),
        from_(from),
        by_(by),
        to_(to),
        name_(std::move(name)) {}

  void run(const Run& run) const override {
    std::atomic<bool> is_finite{true};
    parallel_for(run.parallel, run.batch * positions_, channels_, [&](int64_t from, int64_t to) {
      for (int64_t pixel = from, count; pixel < to; pixel += count) {
        count = std::min(to - pixel, positions_ - pixel % positions_);
        FinishTile tile{};
        tile.acc = run.at<float>(from_) + pixel * channels_;
        tile.type = kValue;
        tile.acc_stride = tile.out_stride = tile.channels = channels_;
        tile.pixels = count;
        tile.scale = run.at<float>(by_) + pixel / positions_ * channels_;
        tile.shift = nothing_.data();
        tile.codes = run.at<uint8_t>(to_) + pixel * channels_;
        tile.quantizer = &q_;
        if (!kernels().finish_tile(tile)) is_finite.store(false, std::memory_order_relaxed);
      }
    });
    require_finite(is_finite, name_);
  }

 private:
  Quantizer q_;
  int64_t channels_, positions_;
  std::vector<float> nothing_;
  int from_, by_, to_;
  std::string name_;
};

template <typename T>
class Lookup : public Step {
 public:
  Lookup(std::vector<T> table, int64_t numel, int from, int to)
      : table_(std::move(table)), numel_(numel), from_(from), to_(to) {}

  void run(const Run& run) const override {
    const uint8_t* codes = run.at<uint8_t>(from_);
    T* found = run.at<T>(to_);
    for_blocks(run.parallel, run.batch * numel_, [&](int64_t first, int64_t count) {
      for (int64_t i = first; i < first + count; ++i) found[i] = table_[codes[i]];
    });
  }

 private:
  std::vector<T> table_;  // codes below their levels, as every code in a run is
  int64_t numel_;
  int from_, to_;
};

}  // namespace

StepPtr quantize_values(const StoredQuantizer& to, int64_t numel, int from, int into,
                        std::string title) {
  return std::make_unique<QuantizeValues>(to, numel, from, into, std::move(title));
}

StepPtr gate_codes(const Sizes& shape, const StoredQuantizer& quantizer, int from, int by, int to,
                   std::string title) {
  return std::make_unique<GateCodes>(shape, quantizer, from, by, to, std::move(title));
}

StepPtr map_codes(std::vector<uint8_t> table, int64_t numel, int from, int to) {
  return std::make_unique<Lookup<uint8_t>>(std::move(table), numel, from, to);
}

StepPtr decode(const StoredQuantizer& of, int64_t numel, int from, int to) {
  const Quantizer q = quantizer_of(of);
  std::vector<float> values;
  for (int code = 0; code < of.levels; ++code) {
    values.push_back(dequantize(static_cast<float>(code), q));
  }
  return std::make_unique<Lookup<float>>(std::move(values), numel, from, to);
}

}  // namespace micronet::engine
