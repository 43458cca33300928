// The gradients of a depthwise convolution, image by image and some blocks of channels at a time:
// what a row needs passes through rings of lines that stay in the cache.

#include "include/depthwise_gradient.h"

#include <algorithm>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace micronet {
namespace {

constexpr int64_t kBlockChannels = 16;
// Of a thread's lines: half of a second-level cache.
constexpr int64_t kRingBytes = int64_t{512} << 10;

int64_t blocks_of(const ConvShape& s) {
  return (s.in_channels + kBlockChannels - 1) / kBlockChannels;
}

// Floats of the weights, or of their gradients, in the order of blocks.
int64_t packed_weights(const ConvShape& s) { return blocks_of(s) * s.taps() * kBlockChannels; }

// Of one axis: where lines begin and how long they are.
struct Geometry {
  int64_t reach_y, reach_x;  // from the first to the last tap
  int64_t image_span;        // lines of the image that a row of outputs needs
  int64_t grad_span;         // rows of outputs that a line of the image needs
  int64_t image_positions;
  int64_t grad_before, grad_positions;

  explicit Geometry(const ConvShape& s)
      : reach_y((s.kernel_height - 1) * s.dilation_y),
        reach_x((s.kernel_width - 1) * s.dilation_x),
        image_span(reach_y + 1),
        grad_span(reach_y / s.stride_y + 1),
        image_positions((s.out_width - 1) * s.stride_x + reach_x + 1),
        grad_before(reach_x > s.left ? (reach_x - s.left) / s.stride_x : 0),
        grad_positions(grad_before +
                       std::max(s.out_width, (s.width - 1 + s.left) / s.stride_x + 1)) {}

  int64_t block_floats() const {
    return (image_span * image_positions + grad_span * grad_positions) * kBlockChannels;
  }
};

// Lines [blocks, positions, 16] of the last `span` rows; what is beside the pixels stays 0.
struct Ring {
  int64_t span, blocks, positions;
  std::vector<float> memory;
  float* lines;

  Ring(int64_t rows, int64_t of_blocks, int64_t of_positions)
      : span(rows), blocks(of_blocks), positions(of_positions) {
    memory.assign(static_cast<size_t>(span * line_floats() + kBlockChannels), 0.0f);
    const uintptr_t past = reinterpret_cast<uintptr_t>(memory.data()) % 64;
    lines = memory.data() + (past == 0 ? 0 : (64 - past) / sizeof(float));
  }

  int64_t next_block() const { return positions * kBlockChannels; }
  int64_t line_floats() const { return blocks * next_block(); }
  float* line(int64_t y) { return lines + y % span * line_floats(); }
};

// The pixels of a row that are `first`, `first` + stride, ..., and the taps that they meet.
struct Phase {
  int64_t first, pixels;
  std::vector<LineTap> taps;

  Phase(const ConvShape& s, const Geometry& at, int64_t x)
      : first(x), pixels((s.width - x + s.stride_x - 1) / s.stride_x) {
    for (int64_t k = 0; k < s.kernel_width; ++k) {
      const int64_t reached = x + s.left - k * s.dilation_x;
      if (reached % s.stride_x != 0) continue;
      const int64_t position = reached / s.stride_x + at.grad_before;
      taps.push_back({position * kBlockChannels, k * kBlockChannels});
    }
  }
};

// What the units of a call share.
struct Plan {
  const DepthwiseGradient& g;
  const ConvShape& s;
  Geometry at;
  std::vector<Phase> phases;
  const float* weights;  // [blocks, taps, 16]
  float* sums;           // [images, blocks, taps, 16]
  int64_t group;         // blocks of a unit
  bool streamed;

  Plan(const DepthwiseGradient& gradient, float* workspace)
      : g(gradient),
        s(gradient.shape),
        at(gradient.shape),
        weights(workspace),
        sums(workspace + packed_weights(gradient.shape)),
        group(std::clamp<int64_t>(kRingBytes / 4 / at.block_floats(), 1, blocks_of(s))),
        streamed(s.in_channels % kBlockChannels == 0 &&
                 leaves_cache(g.grad_x, s.in_numel() * width_of(g.type))) {
    for (int64_t x = 0; x < std::min(s.stride_x, s.width); ++x) phases.emplace_back(s, at, x);
    pack(workspace);
  }

  int64_t groups() const { return (blocks_of(s) + group - 1) / group; }

  void pack(float* to) const {
    std::fill(to, to + packed_weights(s), 0.0f);
    for (int64_t c = 0; c < s.in_channels; ++c) {
      for (int64_t t = 0; t < s.taps(); ++t) to[packed_at(c, t)] = g.w[c * s.taps() + t];
    }
  }

  int64_t packed_at(int64_t channel, int64_t tap) const {
    return (channel / kBlockChannels * s.taps() + tap) * kBlockChannels + channel % kBlockChannels;
  }

  // Adds up the images' sums.
  void finish() const {
    for (int64_t c = 0; c < s.in_channels; ++c) {
      for (int64_t t = 0; t < s.taps(); ++t) {
        double sum = 0.0;
        for (int64_t i = 0; i < s.images; ++i) sum += sums[i * packed_weights(s) + packed_at(c, t)];
        g.grad_w[c * s.taps() + t] = static_cast<float>(sum);
      }
    }
  }
};

// One thread's lines.
struct Lines {
  const Plan& plan;
  const ConvShape& s;
  Ring image, grad;
  std::vector<const float*> below, weights;
  int64_t filled = 0;                             // lines of the image that have been read
  int64_t of_image = 0, block = 0, channels = 0;  // of the unit

  explicit Lines(const Plan& of)
      : plan(of),
        s(of.s),
        image(of.at.image_span, of.group, of.at.image_positions),
        grad(of.at.grad_span, of.group, of.at.grad_positions),
        below(static_cast<size_t>(s.kernel_height)),
        weights(static_cast<size_t>(s.kernel_height)) {}

  void run(int64_t unit) {
    of_image = unit / plan.groups(), block = unit % plan.groups() * plan.group;
    channels = std::min(plan.group * kBlockChannels, s.in_channels - block * kBlockChannels);
    filled = 0;
    if (plan.g.grad_w != nullptr) {
      std::fill(sums(), sums() + blocks() * s.taps() * kBlockChannels, 0.0f);
    }
    int64_t next = 0;  // line of the image
    for (int64_t o = 0; o < s.out_height; ++o) {
      read_gradient(o);
      if (plan.g.grad_w != nullptr) add_to_weights(o);
      if (plan.g.grad_x == nullptr) continue;
      for (; next < s.height && (o + 1 == s.out_height || (next + s.top) / s.stride_y <= o);
           ++next) {
        write_line(next);
      }
    }
  }

 private:
  int64_t blocks() const { return (channels + kBlockChannels - 1) / kBlockChannels; }

  float* sums() const {
    return plan.sums + of_image * packed_weights(s) + block * s.taps() * kBlockChannels;
  }

  // The element of a pixel where the unit's channels begin.
  int64_t element(int64_t pixel) const { return pixel * s.in_channels + block * kBlockChannels; }

  float* first_output(int64_t o) { return grad.line(o) + plan.at.grad_before * kBlockChannels; }

  void read_gradient(int64_t o) {
    const PixelLine line{s.out_width, channels, s.in_channels, grad.next_block(), first_output(o)};
    const int64_t first = element((of_image * s.out_height + o) * s.out_width);
    kernels().line_of_floats(line, at(plan.g.grad, plan.g.type, first), plan.g.type);
  }

  void read_image(int64_t y) {
    // Of the columns beside the image none is below a tap where padding is missing on the right.
    const int64_t inside = std::min(s.width, plan.at.image_positions - s.left);
    if (inside <= 0) return;
    const PixelLine line{inside, channels, s.in_channels, image.next_block(),
                         image.line(y) + s.left * kBlockChannels};
    const int64_t first = element((of_image * s.height + y) * s.width);
    const ImageValues& x = plan.g.x;
    if (x.values != nullptr) {
      kernels().line_of_floats(line, x.values + first, kFloat32);
    } else {
      kernels().line_of_codes(line, x.codes, first, x.table, x.levels);
    }
  }

  void add_to_weights(int64_t o) {
    const int64_t top = o * s.stride_y - s.top;
    for (filled = std::max(filled, top); filled < std::min(s.height, top + plan.at.image_span);
         ++filled) {
      read_image(filled);
    }
    int64_t from = 0, to = s.kernel_height;
    while (from < to && top + from * s.dilation_y < 0) ++from;
    while (from < to && top + (to - 1) * s.dilation_y >= s.height) --to;
    for (int64_t k = from; k < to; ++k) {
      below[static_cast<size_t>(k)] = image.line(top + k * s.dilation_y);
    }
    kernels().weight_gradient_row({first_output(o), below.data(), from, to, s.kernel_height,
                                   s.kernel_width, grad.next_block(), image.next_block(),
                                   s.dilation_x * kBlockChannels, s.stride_x * kBlockChannels,
                                   blocks(), s.out_width, sums()});
  }

  GradientLines lines_of(int64_t y) {
    int64_t count = 0;
    for (int64_t k = 0; k < s.kernel_height; ++k) {
      const int64_t reached = y + s.top - k * s.dilation_y, o = reached / s.stride_y;
      if (reached < 0 || reached % s.stride_y != 0 || o >= s.out_height) continue;
      below[static_cast<size_t>(count)] = grad.line(o);
      weights[static_cast<size_t>(count++)] =
          plan.weights + (block * s.taps() + k * s.kernel_width) * kBlockChannels;
    }
    return {below.data(), weights.data(), count};
  }

  void write_line(int64_t y) {
    const GradientLines found = lines_of(y);
    for (const Phase& phase : plan.phases) {
      const int64_t first = element((of_image * s.height + y) * s.width + phase.first);
      kernels().image_gradient_row(
          {found, phase.taps.data(), static_cast<int64_t>(phase.taps.size()), grad.next_block(),
           s.taps() * kBlockChannels, phase.pixels, channels, s.stride_x * s.in_channels,
           plan.streamed},
          plan.g.type, at(plan.g.grad_x, plan.g.type, first));
    }
  }
};

}  // namespace

int64_t depthwise_gradient_workspace(const ConvShape& shape) {
  return (1 + shape.images) * packed_weights(shape);
}

int depthwise_gradient_cpu(const DepthwiseGradient& gradient, float* workspace,
                           const ParallelFor& parallel) {
  const Plan plan(gradient, workspace);
  const int64_t units = plan.s.images * plan.groups();
  parallel_for(parallel, units, plan.s.in_numel() / units + 1, [&](int64_t from, int64_t to) {
    Lines lines(plan);
    for (int64_t unit = from; unit < to; ++unit) lines.run(unit);
  });
  if (gradient.grad_w != nullptr) plan.finish();
  return kOk;
}

}  // namespace micronet
