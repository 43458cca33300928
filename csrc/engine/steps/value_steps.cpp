// Steps on values that follow no sum: functions, sums and products of signals, pools, copies.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "engine/format/error.h"
#include "engine/steps/step.h"

namespace micronet::engine {
namespace {

const float kOne = 1.0f;

// The functions that the core has.
class CoreFunction : public Step {
 public:
  CoreFunction(Function function, int64_t numel, int from, int to)
      : function_(function), numel_(numel), from_(from), to_(to) {}

  void run(const Run& run) const override {
    block_values_cpu({run.at<float>(from_), kValue, 1, run.batch * numel_, 1, &kOne, &kNothing,
                      function_, nullptr},
                     run.at<float>(to_), run.parallel);
  }

 private:
  Function function_;
  int64_t numel_;
  int from_, to_;
};

// y [i] = body(x [i], other [i]).
template <typename Body>
class Elementwise : public Step {
 public:
  Elementwise(int64_t numel, int from, int other, int to, Body body)
      : numel_(numel), from_(from), other_(other), to_(to), body_(body) {}

  void run(const Run& run) const override {
    const float *x = run.at<float>(from_), *other = run.at<float>(other_);
    float* y = run.at<float>(to_);
    for_blocks(run.parallel, run.batch * numel_, [&](int64_t first, int64_t count) {
#pragma GCC ivdep
      for (int64_t i = first; i < first + count; ++i) y[i] = body_(x[i], other[i]);
    });
  }

 private:
  int64_t numel_;
  int from_, other_, to_;
  Body body_;
};

template <typename Body>
StepPtr elementwise(int64_t numel, int from, int other, int to, Body body) {
  return std::make_unique<Elementwise<Body>>(numel, from, other, to, body);
}

float clipped(float x) { return clamp_keep_nan(x, 0.0f, 6.0f); }

class Mean : public Step {
 public:
  Mean(const Sizes& shape, int from, int to)
      : channels_(shape[0]),
        positions_(shape[1] * shape[2]),
        ones_(static_cast<size_t>(channels_), 1.0f),
        nothing_(static_cast<size_t>(channels_), kNothing),
        from_(from),
        to_(to) {}

  void run(const Run& run) const override {
    block_means_cpu({run.at<float>(from_), kValue, run.batch, positions_, channels_, ones_.data(),
                     nothing_.data(), kIdentity, nullptr},
                    run.at<float>(to_), run.parallel);
  }

 private:
  int64_t channels_, positions_;
  std::vector<float> ones_, nothing_;
  int from_, to_;
};

class Max : public Step {
 public:
  Max(const Node& node, const Sizes& input, const Sizes& output, int from, int to)
      : numbers_(node.numbers), in_(input), out_(output), from_(from), to_(to) {}

  void run(const Run& run) const override {
    const float* x = run.at<float>(from_);
    float* y = run.at<float>(to_);
    const int64_t channels = out_[0];
    parallel_for(run.parallel, run.batch * out_[1], out_[2] * channels,
                 [&](int64_t from, int64_t to) {
                   for (int64_t i = from; i < to; ++i) {
                     for (int64_t column = 0; column < out_[2]; ++column) {
                       window(x + i / out_[1] * in_[0] * in_[1] * in_[2], i % out_[1], column,
                              y + (i * out_[2] + column) * channels);
                     }
                   }
                 });
  }

 private:
  // Taps [first, end) of an axis that lie in the image: kernels may be far larger than it is.
  struct Taps {
    int64_t start, first, end;
  };
  Taps taps(size_t axis, int64_t at) const {
    const auto& [kernel, stride, padding, dilation] = numbers_;
    const int64_t start = at * stride[axis] - padding[axis], d = dilation[axis];
    const int64_t first = start < 0 ? (d - 1 - start) / d : 0;
    const int64_t beyond = in_[axis + 1] - start;
    return {start, first, std::min(kernel[axis], beyond <= 0 ? 0 : (beyond - 1) / d + 1)};
  }

  void window(const float* image, int64_t row, int64_t column, float* y) const {
    const Taps rows = taps(0, row), columns = taps(1, column);
    const Sizes& dilation = numbers_[3];
    std::fill(y, y + out_[0], -std::numeric_limits<float>::infinity());
    for (int64_t ky = rows.first; ky < rows.end; ++ky) {
      for (int64_t kx = columns.first; kx < columns.end; ++kx) {
        const int64_t in_row = rows.start + ky * dilation[0];
        const float* x = image + (in_row * in_[2] + columns.start + kx * dilation[1]) * in_[0];
        kernels().widen(x, out_[0], y);
      }
    }
  }

  std::array<Sizes, 4> numbers_;
  Sizes in_, out_;
  int from_, to_;
};

// Products with one factor for each channel of [images, outer, channels, inner].
class Gate : public Step {
 public:
  Gate(int64_t outer, int64_t channels, int64_t inner, int from, int by, int to)
      : outer_(outer), channels_(channels), inner_(inner), from_(from), by_(by), to_(to) {}

  void run(const Run& run) const override {
    const float *x = run.at<float>(from_), *factors = run.at<float>(by_);
    float* y = run.at<float>(to_);
    parallel_for(run.parallel, run.batch * outer_, channels_ * inner_,
                 [&](int64_t from, int64_t to) {
                   for (int64_t i = from; i < to; ++i) {
                     multiply(x + i * channels_ * inner_, factors + i / outer_ * channels_,
                              y + i * channels_ * inner_);
                   }
                 });
  }

 private:
  void multiply(const float* x, const float* factors, float* y) const {
    if (inner_ == 1) {
#pragma GCC ivdep
      for (int64_t c = 0; c < channels_; ++c) y[c] = x[c] * factors[c];
      return;
    }
    for (int64_t i = 0; i < channels_ * inner_; ++i) y[i] = x[i] * factors[i / inner_];
  }

  int64_t outer_, channels_, inner_;
  int from_, by_, to_;
};

// Memory as [outer, channels * inner] of a signal.
struct Cut {
  int64_t outer = 1, channels, inner = 1;

  explicit Cut(const Sizes& shape) : channels(shape[0]) {
    for (size_t i = 1; i < shape.size(); ++i) (shape.size() == 3 ? outer : inner) *= shape[i];
  }
};

class Concat : public Step {
 public:
  Concat(const std::vector<Sizes>& shapes, std::vector<int> from, int to)
      : outer_(Cut(shapes[0]).outer), from_(std::move(from)), to_(to) {
    for (const Sizes& shape : shapes) widths_.push_back(Cut(shape).channels * Cut(shape).inner);
    for (const int64_t width : widths_) all_ += width;
  }

  void run(const Run& run) const override {
    float* y = run.at<float>(to_);
    parallel_for(run.parallel, run.batch * outer_, all_, [&](int64_t begin, int64_t end) {
      int64_t first = 0;
      for (size_t k = 0; k < from_.size(); first += widths_[k++]) {
        const float* x = run.at<float>(from_[k]);
        for (int64_t i = begin; i < end; ++i) {
          std::copy_n(x + i * widths_[k], widths_[k], y + i * all_ + first);
        }
      }
    });
  }

 private:
  int64_t outer_, all_ = 0;
  std::vector<int> from_;
  std::vector<int64_t> widths_;
  int to_;
};

}  // namespace

StepPtr apply_function(NodeFunction function, int64_t numel, int from, int to) {
  switch (function) {
    case NodeFunction::kRelu:
      return std::make_unique<CoreFunction>(kRelu, numel, from, to);
    case NodeFunction::kSwish:
      return std::make_unique<CoreFunction>(kSwish, numel, from, to);
    case NodeFunction::kSigmoid:
      return std::make_unique<CoreFunction>(kSigmoid, numel, from, to);
    case NodeFunction::kRelu6:
      return elementwise(numel, from, from, to, [](float x, float) { return clipped(x); });
    case NodeFunction::kHardsigmoid:
      return elementwise(numel, from, from, to,
                         [](float x, float) { return clipped(x + 3.0f) / 6.0f; });
    case NodeFunction::kHardswish:
      return elementwise(numel, from, from, to,
                         [](float x, float) { return x * clipped(x + 3.0f) / 6.0f; });
    default:
      refuse("a pool is no function of each value");
  }
}

StepPtr mean_of(const Sizes& shape, int from, int to) {
  return std::make_unique<Mean>(shape, from, to);
}

StepPtr max_of(const Node& node, const Sizes& input, const Sizes& output, int from, int to) {
  return std::make_unique<Max>(node, input, output, from, to);
}

StepPtr add(int64_t numel, int one, int other, int to) {
  return elementwise(numel, one, other, to, [](float x, float y) { return x + y; });
}

StepPtr gate(const Sizes& shape, int64_t factors, int from, int by, int to) {
  const Cut cut(shape);
  const int64_t numel = cut.outer * cut.channels * cut.inner;
  if (factors == numel) {
    return elementwise(numel, from, by, to, [](float x, float y) { return x * y; });
  }
  return std::make_unique<Gate>(cut.outer, cut.channels, cut.inner, from, by, to);
}

StepPtr concat(const std::vector<Sizes>& shapes, const std::vector<int>& from, int to) {
  return std::make_unique<Concat>(shapes, from, to);
}

}  // namespace micronet::engine
