// The first steps: images as they come, normalized floats or bytes.

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>

#include "cpu/parallel.h"
#include "engine/format/error.h"
#include "engine/format/pixels.h"
#include "engine/steps/step.h"

namespace micronet::engine {
namespace {

// Where the channels of a row of bytes begin, and how far its pixels are from each other.
struct PixelRow {
  const uint8_t* first;
  int64_t of_channel, of_column;

  PixelRow(const Run& run, const Sizes& shape, int64_t image, int64_t row)
      : of_channel(run.pixels_last ? 1 : shape[1] * shape[2]),
        of_column(run.pixels_last ? shape[0] : 1) {
    const int64_t numel = shape[0] * shape[1] * shape[2];
    first = run.pixels + image * numel + row * shape[2] * of_column;
  }
};

// Whether all of some floats are: only an exponent of ones carries into the sign.
bool are_finite(const float* x, int64_t count) {
  uint32_t carried = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, sizeof(bits));
    carried |= (bits & 0x7fffffffu) + 0x00800000u;
  }
  return carried >> 31 == 0;
}

// Images as floats, channels last, or as planes, as which floats come: those are only looked at.
class ReadImages : public Step {
 public:
  ReadImages(const Document& document, bool as_planes, int to)
      : shape_(document.input), as_planes_(as_planes), to_(to) {
    if (!document.has_normalization()) return;
    for (const GreyScale& scale : grey_scales(document.mean, document.std)) {
      std::array<float, 256>& values = normalized_.emplace_back();
      for (size_t i = 0; i < 256; ++i) values[i] = scale.normalized(static_cast<uint8_t>(i));
    }
  }

  void run(const Run& run) const override {
    const int64_t rows = shape_[1], width = shape_[2], channels = shape_[0];
    std::atomic<bool> is_finite{true};
    parallel_for(run.parallel, run.batch * rows, width * channels, [&](int64_t from, int64_t to) {
      bool finite = true;
      for (int64_t i = from; i < to; ++i) {
        float* y = run.at<float>(to_) +
                   (as_planes_ ? i / rows * rows * channels + i % rows : i * channels) * width;
        finite &= run.pixels == nullptr ? read_floats(run, i / rows, i % rows, y)
                                        : read_pixels({run, shape_, i / rows, i % rows}, y);
      }
      if (!finite) is_finite.store(false, std::memory_order_relaxed);
    });
    require(is_finite, "an image has a value that is not finite");
  }

 private:
  bool read_floats(const Run& run, int64_t image, int64_t row, float* y) const {
    bool finite = true;
    for (int64_t c = 0; c < shape_[0]; ++c) {
      const float* x = run.images + ((image * shape_[0] + c) * shape_[1] + row) * shape_[2];
      finite &= are_finite(x, shape_[2]);
      if (as_planes_) continue;
      for (int64_t i = 0; i < shape_[2]; ++i) y[i * shape_[0] + c] = x[i];
    }
    return finite;
  }

  bool read_pixels(const PixelRow& row, float* y) const {
    bool finite = true;
    for (int64_t c = 0; c < shape_[0]; ++c) {
      const std::array<float, 256>& values = normalized_[static_cast<size_t>(c)];
      const uint8_t* x = row.first + c * row.of_channel;
      for (int64_t i = 0; i < shape_[2]; ++i) {
        const float value = values[x[i * row.of_column]];
        finite &= std::isfinite(value);
        y[as_planes_ ? c * shape_[1] * shape_[2] + i : i * shape_[0] + c] = value;
      }
    }
    return finite;
  }

  Sizes shape_;
  bool as_planes_;
  int to_;
  std::vector<std::array<float, 256>> normalized_;  // by channel and byte; empty where not known
};

// Grey values, channels last, with their border around them.
class ReadGreyValues : public Step {
 public:
  ReadGreyValues(const Node& node, const Sizes& shape, const Layer& layer, int to)
      : scales_(grey_scales(node.mean, node.std)), shape_(shape), to_(to) {
    const auto [top, left, bottom, right] = layer.padding;
    top_ = top, left_ = left;
    height_ = shape[1] + top + bottom, width_ = shape[2] + left + right;
    for (const GreyScale& scale : scales_) border_.push_back(GreyScale::code(scale.grey(0.0f)));
  }

  void run(const Run& run) const override {
    const int64_t row_bytes = width_ * shape_[0];
    std::atomic<bool> is_finite{true};
    parallel_for(run.parallel, run.batch * height_, row_bytes, [&](int64_t from, int64_t to) {
      bool finite = true;
      for (int64_t i = from; i < to; ++i) {
        finite &=
            read_row(run, i / height_, i % height_ - top_, run.at<uint8_t>(to_) + i * row_bytes);
      }
      if (!finite) is_finite.store(false, std::memory_order_relaxed);
    });
    require(is_finite, "an image has a value that is not finite as a grey value");
  }

 private:
  bool read_row(const Run& run, int64_t image, int64_t row, uint8_t* y) const {
    const int64_t channels = shape_[0], end = left_ + shape_[2];
    if (row < 0 || row >= shape_[1]) {
      fill(y, width_);
      return true;
    }
    fill(y, left_);
    fill(y + end * channels, width_ - end);
    y += left_ * channels;
    if (run.pixels != nullptr) {
      const PixelRow from(run, shape_, image, row);
      for (int64_t c = 0; c < channels; ++c) {
        const uint8_t* x = from.first + c * from.of_channel;
        for (int64_t i = 0; i < shape_[2]; ++i) y[i * channels + c] = x[i * from.of_column];
      }
      return true;
    }
    bool finite = true;
    for (int64_t c = 0; c < channels; ++c) {
      const GreyScale scale = scales_[static_cast<size_t>(c)];
      const float* x = run.images + ((image * channels + c) * shape_[1] + row) * shape_[2];
      for (int64_t i = 0; i < shape_[2]; ++i) {
        const float grey = scale.grey(x[i]);
        finite &= std::isfinite(grey);
        y[i * channels + c] = GreyScale::code(std::isfinite(grey) ? grey : 0.0f);
      }
    }
    return finite;
  }

  void fill(uint8_t* y, int64_t columns) const {
    for (int64_t i = 0; i < columns; ++i) y = std::copy(border_.begin(), border_.end(), y);
  }

  std::vector<GreyScale> scales_;
  std::vector<uint8_t> border_;  // of each channel
  Sizes shape_;
  int64_t top_, left_, height_, width_;
  int to_;
};

}  // namespace

StepPtr read_images(const Document& document, bool as_planes, int to) {
  return std::make_unique<ReadImages>(document, as_planes, to);
}

StepPtr read_grey_values(const Node& node, const Sizes& shape, const Layer& layer, int to) {
  return std::make_unique<ReadGreyValues>(node, shape, layer, to);
}

ConvShape with_border(ConvShape shape, const Layer& layer) {
  const auto& [top, left, bottom, right] = layer.padding;
  shape.height += top + bottom, shape.width += left + right;
  shape.top = shape.left = 0;
  return shape;
}

}  // namespace micronet::engine
