// Blocks, and evaluation in float, by CUDA kernels that run on the host, against plain loops.

#include "include/block.h"
#include "include/exact.h"
#include "tests/conv_problem.h"
#include "tests/cuda/inputs.h"

namespace micronet {
namespace {

float activate_by(Function function, float z) {
  if (function == kRelu) return activate<kRelu>(z);
  if (function == kSwish) return activate<kSwish>(z);
  return function == kSigmoid ? activate<kSigmoid>(z) : z;
}

float through_by(Function function, float grad, float z) {
  if (function == kRelu) return through<kRelu>(grad, z);
  if (function == kSwish) return through<kSwish>(grad, z);
  return function == kSigmoid ? through<kSigmoid>(grad, z) : grad;
}

// Lane l adds terms l, l + 16, ...; then lanes are added pairwise.
struct Lanes {
  float lanes[kLanes] = {};

  void add(int64_t i, float v) { lanes[i % kLanes] += v; }
  float sum() {
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    }
    return lanes[0];
  }
};

bool close(double a, double b) { return std::fabs(a - b) <= 1e-9 * (1.0 + std::fabs(b)); }

struct Trial {
  int64_t images, positions, channels, numel;
  Accumulator type;
  Function function;
  std::vector<int32_t> words;
  std::vector<int16_t> shorts;
  std::vector<float> floats, scale, shift, gate, mean_grad, k;
  Elements grad;
  DType type_of_grad;
  Range range;
  int levels, scheme;
  bool gated, has_range, has_mean_grad;

  Trial(std::mt19937& random, int64_t n, int64_t p, int64_t c, Accumulator of, Function f,
        DType of_grad)
      : images(n),
        positions(p),
        channels(c),
        numel(n * p * c),
        type(of),
        function(f),
        words(static_cast<size_t>(numel)),
        shorts(static_cast<size_t>(numel)),
        floats(static_cast<size_t>(numel)),
        scale(normals(random, c)),
        shift(normals(random, c)),
        gate(normals(random, n * c)),
        mean_grad(normals(random, n * c)),
        k(normals(random, 3 * c)),
        grad(inputs(random, of_grad, numel, 0, kUsual)),
        type_of_grad(of_grad),
        range(any_range(random)),
        levels(kLevels[random() % 4]),
        scheme(kAffine),
        gated(random() % 2 == 0),
        has_range(random() % 3 != 0),
        has_mean_grad(random() % 2 == 0) {
    for (size_t i = 0; i < words.size(); ++i) {
      shorts[i] = static_cast<int16_t>(random() % 401) - 200;
      words[i] = type == kInt16 ? shorts[i] : static_cast<int32_t>(random() % 20001) - 10000;
      floats[i] = type == kValue ? normals(random, 1)[0] : static_cast<float>(words[i]);
    }
    for (float& v : scale) v *= type == kValue ? 1.0f : 0.01f;
    if (type == kValue && random() % 3 == 0) floats[random() % floats.size()] = INFINITY;
    if (random() % 2 == 0) {
      scheme = kLearned;
      range = {{0.3f, -static_cast<float>(random() % static_cast<unsigned>(levels))}};
    } else if (random() % 4 == 0) {
      scheme = kSchemes[random() % kSchemeCount], levels = levels_for(scheme, levels);
    }
  }

  Block block() const {
    const void* acc = type == kInt16   ? static_cast<const void*>(shorts.data())
                      : type == kInt32 ? static_cast<const void*>(words.data())
                                       : static_cast<const void*>(floats.data());
    return {acc,          type,     images,
            positions,    channels, scale.data(),
            shift.data(), function, gated ? gate.data() : nullptr};
  }
  Block without_gate() const {
    Block plain = block();
    plain.gate = nullptr;
    return plain;
  }
  Block with_gate() const {
    Block whole = block();
    whole.gate = gate.data();
    return whole;
  }
  Coding coding() const { return {range.ends, levels, scheme}; }
  Quantizer quantizer() const { return coding().quantizer(); }
  BlockGradient gradient() {
    return {grad.data(),
            type_of_grad,
            {has_range ? range.ends : nullptr, levels, scheme},
            has_mean_grad ? mean_grad.data() : nullptr};
  }

  size_t channel_of(int64_t i) const { return static_cast<size_t>(i % channels); }
  size_t gate_of(int64_t i) const {
    return static_cast<size_t>(i / (positions * channels) * channels + i % channels);
  }
  float z(int64_t i) const {
    return std::fma(floats[static_cast<size_t>(i)], scale[channel_of(i)], shift[channel_of(i)]);
  }
  float a(int64_t i) const { return activate_by(function, z(i)); }
  float value(int64_t i) const { return gated ? a(i) * gate[gate_of(i)] : a(i); }
  float passed(int64_t i, float at) const {
    return !has_range || is_inside(at, quantizer()) ? grad[i] : 0.0f;
  }
  float dz(int64_t i) const {
    const float g = passed(i, a(i));
    return through_by(function, has_mean_grad ? g + mean_grad[gate_of(i)] : g, z(i));
  }
};

void forward(const Trial& t) {
  const Block block = t.block();
  std::vector<float> values(static_cast<size_t>(t.numel)), extremes(2), room = workspace();
  CHECK(block_values_cuda(block, values.data(), nullptr) == kOk);
  std::vector<uint8_t> codes = dirty(code_bytes(t.numel, t.levels));
  CHECK(block_codes_cuda(block, t.coding(), codes.data(), nullptr) == kOk);
  CHECK(block_extremes_cuda(block, room.data(), extremes.data(), nullptr) == kOk);
  const Quantizer q = t.quantizer();
  Elements found(kFloat32, t.numel, 0);
  for (int64_t i = 0; i < t.numel; ++i) {
    found.set(i, t.value(i));
    CHECK(same(values[static_cast<size_t>(i)], t.value(i)));
    const float code = quantize(t.value(i), q) - q.code_min;
    CHECK(code_at(codes, i, t.levels) == (code == code ? static_cast<int>(code) : 0));
  }
  if (are_half_bytes(t.levels) && t.numel % 2 != 0) CHECK(codes.back() < 16);
  CHECK(extremes_of(found, t.numel).is(extremes.data()));
}

void means_and_moments(const Trial& t) {
  const Block block = t.without_gate();
  std::vector<float> means(static_cast<size_t>(t.images * t.channels));
  CHECK(block_means_cuda(block, means.data(), nullptr) == kOk);
  for (int64_t n = 0; n < t.images; ++n) {
    for (int64_t c = 0; c < t.channels; ++c) {
      Lanes lanes;
      for (int64_t p = 0; p < t.positions; ++p) {
        lanes.add(p, t.a((n * t.positions + p) * t.channels + c));
      }
      const float mean = lanes.sum() / static_cast<float>(t.positions);
      CHECK(same(means[static_cast<size_t>(n * t.channels + c)], mean));
    }
  }
  const size_t both = static_cast<size_t>(2 * t.channels);
  std::vector<double> partial(static_cast<size_t>(block_parts_cuda(block)) * both), sums(both);
  CHECK(block_moments_cuda(block, partial.data(), sums.data(), nullptr) == kOk);
  std::vector<double> expected(both);
  for (int64_t i = 0; i < t.numel; ++i) {
    const double v = t.floats[static_cast<size_t>(i)];
    expected[t.channel_of(i)] += v;
    expected[static_cast<size_t>(t.channels) + t.channel_of(i)] += v * v;
  }
  for (size_t i = 0; i < both; ++i) {
    CHECK(std::isfinite(expected[i]) ? close(sums[i], expected[i]) : !std::isfinite(sums[i]));
  }
}

void backward(Trial& t, DType out_type) {
  const Block block = t.without_gate();
  const size_t channels = static_cast<size_t>(t.channels), both = 2 * channels;
  std::vector<float> grad_a(static_cast<size_t>(t.numel)), grad_gate(t.gate.size());
  Elements out(out_type, t.numel, 0);
  CHECK(block_gradient_cuda(block, t.gradient(), t.k.data(), out.data(), out_type, nullptr) == kOk);
  std::vector<double> partial(static_cast<size_t>(block_parts_cuda(block)) * both), sums(both);
  CHECK(block_gradient_sums_cuda(block, t.gradient(), partial.data(), sums.data(), nullptr) == kOk);
  std::vector<double> expected(both);
  for (int64_t i = 0; i < t.numel; ++i) {
    const float acc = t.floats[static_cast<size_t>(i)], dz = t.dz(i);
    const size_t c = t.channel_of(i);
    expected[c] += dz;
    expected[channels + c] += dz * acc;
    const float offset = acc * t.k[channels + c] + t.k[2 * channels + c];
    CHECK(same(out[i], rounded_to(out_type, dz * t.k[c] + offset)));
  }
  for (size_t i = 0; i < both; ++i) {
    CHECK(std::isfinite(expected[i]) ? close(sums[i], expected[i]) : !std::isfinite(sums[i]));
  }
  CHECK(block_gate_gradient_cuda(t.with_gate(), t.gradient(), grad_a.data(), grad_gate.data(),
                                 nullptr) == kOk);
  std::vector<Lanes> lanes(grad_gate.size());
  for (int64_t i = 0; i < t.numel; ++i) {
    const float gate = t.gate[t.gate_of(i)], passed = t.passed(i, t.a(i) * gate);
    CHECK(same(grad_a[static_cast<size_t>(i)], passed * gate));
    lanes[t.gate_of(i)].add(i / t.channels % t.positions, passed * t.a(i));
  }
  for (size_t i = 0; i < lanes.size(); ++i) CHECK(same(grad_gate[i], lanes[i].sum()));
}

// The gradients to a learned step and to its offset.
void steps(Trial& t) {
  const Block block = t.block();
  const size_t channels = static_cast<size_t>(t.channels), both = 2 * channels;
  std::vector<double> partial(static_cast<size_t>(block_parts_cuda(block)) * both), sums(both);
  BlockGradient gradient = t.gradient();
  gradient.coding = t.coding();
  CHECK(block_step_sums_cuda(block, gradient, partial.data(), sums.data(), nullptr) == kOk);
  const Quantizer q = t.quantizer();
  std::vector<double> expected(both);
  for (int64_t i = 0; i < t.numel; ++i) {
    const float value = t.value(i), whole = quantize(value, q) + q.zero_point;
    const bool inside = is_inside(value, q);
    expected[t.channel_of(i)] += t.grad[i] * (inside ? whole - q.scale * value : whole);
    expected[channels + t.channel_of(i)] += inside ? 0.0f : t.grad[i];
  }
  for (size_t i = 0; i < both; ++i) {
    CHECK(std::isfinite(expected[i]) ? close(sums[i], expected[i]) : !std::isfinite(sums[i]));
  }
}

void float_convolution(std::mt19937& random, const ConvShape& s) {
  const std::vector<float> x = normals(random, s.in_numel());
  const std::vector<float> w = normals(random, s.out_channels * s.depth());
  const std::vector<float> bias = normals(random, s.out_channels);
  std::vector<float> y(static_cast<size_t>(s.pixels() * s.out_channels));
  const bool biased = random() % 2 == 0;
  CHECK(conv2d_deterministic_cuda(s, x.data(), w.data(), biased ? bias.data() : nullptr, y.data(),
                                  nullptr) == kOk);
  const int64_t per_group = s.out_channels / s.groups;
  for (int64_t at = 0; at < s.pixels() * s.out_channels; ++at) {
    const int64_t o = at % s.out_channels, pixel = at / s.out_channels;
    const int64_t ox = pixel % s.out_width, oy = pixel / s.out_width % s.out_height;
    float sum = 0.0f;
    for (int64_t k = 0; k < s.depth(); ++k) {
      const int64_t c = k / s.taps() + o / per_group * s.group_channels(), tap = k % s.taps();
      const int64_t iy = oy * s.stride_y - s.top + tap / s.kernel_width * s.dilation_y;
      const int64_t ix = ox * s.stride_x - s.left + tap % s.kernel_width * s.dilation_x;
      const bool inside = iy >= 0 && iy < s.height && ix >= 0 && ix < s.width;
      const int64_t image = pixel / s.out_width / s.out_height;
      const int64_t i = ((image * s.height + iy) * s.width + ix) * s.in_channels + c;
      sum = std::fma(inside ? x[static_cast<size_t>(i)] : 0.0f,
                     w[static_cast<size_t>(o * s.depth() + k)], sum);
    }
    CHECK(same(y[static_cast<size_t>(at)], biased ? sum + bias[static_cast<size_t>(o)] : sum));
  }
}

void linear_layer(std::mt19937& random, int64_t depth, int64_t outputs) {
  constexpr int64_t kRowsOfX = 3;
  const std::vector<float> x = normals(random, kRowsOfX * depth), bias = normals(random, outputs);
  const std::vector<float> w = normals(random, outputs * depth), ratio = normals(random, outputs);
  std::vector<float> y(static_cast<size_t>(kRowsOfX * outputs));
  CHECK(linear_deterministic_cuda(x.data(), w.data(), ratio.data(), bias.data(), kRowsOfX, depth,
                                  outputs, y.data(), nullptr) == kOk);
  for (int64_t i = 0; i < kRowsOfX * outputs; ++i) {
    const int64_t row = i / outputs, o = i % outputs;
    Lanes lanes;
    for (int64_t k = 0; k < depth; ++k) {
      float& lane = lanes.lanes[k % kLanes];
      lane = std::fma(x[static_cast<size_t>(row * depth + k)],
                      w[static_cast<size_t>(o * depth + k)], lane);
    }
    const size_t output = static_cast<size_t>(o);
    CHECK(same(y[static_cast<size_t>(i)], std::fma(lanes.sum(), ratio[output], bias[output])));
  }
}

}  // namespace

void run_tests(std::mt19937& random) {
  constexpr int64_t kSizesOfBlocks[][3] = {{1, 1, 1},  {2, 17, 33},  {3, 16, 16}, {2, 9, 40},
                                           {3, 5, 12}, {1, 1030, 3}, {2, 2, 520}, {1, 3, 301}};
  // Accumulators with functions, and with them a type of gradients: all pairs of the three meet.
  for (const auto& size : kSizesOfBlocks) {
    size_t first = random() % 3;
    for (const Accumulator type : {kInt16, kInt32, kValue}) {
      size_t next = first++;
      for (const Function function : {kIdentity, kRelu, kSwish, kSigmoid}) {
        Trial trial(random, size[0], size[1], size[2], type, function, kTypes[next++ % 3]);
        forward(trial);
        means_and_moments(trial);
        backward(trial, kTypes[random() % 3]);
        if (trial.scheme == kLearned) steps(trial);
      }
    }
  }
  for (const ConvShape& shape : kShapes) float_convolution(random, shape);
  for (const int64_t depth : {1, 15, 16, 17, 130}) {
    for (const int64_t outputs : {1, 16, 17}) linear_layer(random, depth, outputs);
  }
}

}  // namespace micronet
