// Convolutions and linear layers: sums by the core's launchers, and what follows them.

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "engine/steps/arena.h"
#include "engine/steps/finish.h"
#include "include/conv_workspace.h"
#include "include/exact.h"

namespace micronet::engine {
namespace {

std::vector<float> or_all(const std::vector<float>& values, int64_t count, float usual) {
  return values.empty() ? std::vector<float>(static_cast<size_t>(count), usual) : values;
}

ConvShape for_batch(ConvShape shape, int64_t batch) {
  shape.images = batch;
  return shape;
}

// The largest |sum| that codes of an input can give each channel.
std::vector<int64_t> bounds_of(const LayerCall& call, const LayerTensors& tensors,
                               const StoredQuantizer& input) {
  const size_t depth = static_cast<size_t>(call.layer.depth());
  const int64_t least = -input.zero_point, most = input.levels - 1 - input.zero_point;
  std::vector<int64_t> bounds(tensors.scale.size());
  for (size_t o = 0; o < bounds.size(); ++o) {
    int64_t positive = 0, negative = 0;
    for (size_t k = 0; k < depth; ++k) {
      const int64_t weight = int64_t{tensors.codes[o * depth + k]} - tensors.zero_point[o];
      (weight > 0 ? positive : negative) += weight;
    }
    const int64_t low = positive * least + negative * most,
                  high = positive * most + negative * least;
    bounds[o] = std::max(std::abs(low), std::abs(high));
  }
  return bounds;
}

class IntegerLayer : public Step {
 public:
  IntegerLayer(const LayerCall& call, const LayerTensors& tensors, const StoredQuantizer& input)
      : call_(call),
        kind_(accumulator_bound(call.shape, input.levels, call.layer.levels) <= kMostInt16
                  ? kInt16
                  : kInt32),
        levels_(input.levels),
        weight_levels_(call.layer.levels),
        range_{1.0f, -static_cast<float>(input.zero_point)},
        memory_(quant_conv2d_weight_bytes(call.shape)),
        finish_(call.epilogue, tensors.scale, or_all(tensors.bias, call.layer.outputs(), 0.0f),
                call.shape.out_height * call.shape.out_width, bounds_of(call, tensors, input)) {
    const ConvWorkspace at(call.shape);
    uint8_t* memory = memory_.data();
    std::memcpy(memory + at.weight_codes, tensors.codes.data(), tensors.codes.size());
    float* scales = reinterpret_cast<float*>(memory + at.scale);
    float* zeros = reinterpret_cast<float*>(memory + at.zero_point);
    for (size_t o = 0; o < tensors.scale.size(); ++o) {
      scales[o] = 1.0f;  // sums stay integers
      zeros[o] = -static_cast<float>(tensors.zero_point[o]);
    }
    std::vector<float> ratio(tensors.scale.size());
    QuantConv conv = operands(call.shape);
    conv.ratio = ratio.data();
    lay_out_weights_cpu(conv, memory,
                        {[](int64_t count, int64_t, void (*body)(void*, int64_t, int64_t),
                            void* context) { body(context, 0, count); }});
  }

  void run(const Run& run) const override {
    const ConvShape shape = for_batch(call_.shape, run.batch);
    QuantConv conv = operands(shape);
    conv.codes = run.at<uint8_t>(call_.from);
    Finish::Use use(finish_, run);
    const SumsReader reader = use.reader();
    conv.reader = &reader;
    quant_conv2d_laid_out_cpu(conv, memory_.data(), run.parallel);
    use.end();
  }

 private:
  QuantConv operands(const ConvShape& shape) const {
    QuantConv conv{};
    conv.shape = shape;
    conv.coding = {range_, levels_, kLearned};  // a step of 1 and the zero point
    conv.type = kFloat32;
    conv.weight_levels = weight_levels_;
    conv.weight_scheme = kAffine;
    conv.kind = kind_;
    conv.has_whole_bytes = true;
    return conv;
  }

  const LayerCall call_;
  Accumulator kind_;
  int levels_, weight_levels_;
  float range_[2];
  AlignedBytes memory_;
  Finish finish_;
};

// The weights of float sums.
std::vector<float> floats_of(const Layer& layer, const LayerTensors& tensors) {
  if (layer.levels == 0) return tensors.floats;
  std::vector<float> values(tensors.codes.size());
  const size_t depth = static_cast<size_t>(layer.depth());
  for (size_t i = 0; i < values.size(); ++i) {
    const int whole = int{tensors.codes[i]} - tensors.zero_point[i / depth];
    values[i] = static_cast<float>(whole);
    if (layer.sums == Sums::kFloat) values[i] = values[i] / tensors.scale[i / depth];
  }
  return values;
}

class FloatConv : public Step {
 public:
  FloatConv(const LayerCall& call, const LayerTensors& tensors)
      : call_(call),
        laid_out_(static_cast<size_t>(call.layer.numel())),
        bias_(tensors.norm_scale.empty() ? tensors.bias : std::vector<float>()),
        finish_(call.epilogue, or_all(tensors.norm_scale, call.layer.outputs(), 1.0f),
                tensors.norm_scale.empty() ? or_all({}, call.layer.outputs(), kNothing)
                                           : or_all(tensors.bias, call.layer.outputs(), 0.0f),
                call.shape.out_height * call.shape.out_width, {}) {
    lay_out_conv2d_deterministic_cpu(call.shape, floats_of(call.layer, tensors).data(),
                                     laid_out_.data());
  }

  void run(const Run& run) const override {
    const ConvShape& s = call_.shape;
    const int64_t c = s.in_channels, size = s.height * s.width;
    const bool reads_input = call_.has_planes && run.pixels == nullptr;
    const float* x = reads_input ? run.images : run.at<float>(call_.from);
    const Images images = call_.has_planes ? Images{x, c * size, s.width, 1, size}
                                           : Images{x, c * size, s.width * c, c, 1};
    Finish::Use use(finish_, run);
    const SumsReader reader = use.reader();
    conv2d_deterministic_read_cpu(for_batch(s, run.batch), images, laid_out_.data(),
                                  bias_.empty() ? nullptr : bias_.data(), reader, run.parallel);
    use.end();
  }

 private:
  const LayerCall call_;
  std::vector<float> laid_out_, bias_;
  Finish finish_;
};

// Weights as whole numbers of a byte, which take a quarter of the memory; empty where one is none.
std::vector<int8_t> bytes_of(const std::vector<float>& weights) {
  std::vector<int8_t> bytes(weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    const float clipped = std::clamp(weights[i], -128.0f, 127.0f);
    bytes[i] = static_cast<int8_t>(clipped);
    // -0 is no whole number: its products have another sign.
    const float again = static_cast<float>(bytes[i]);
    if (std::memcmp(&again, &weights[i], sizeof(float)) != 0) return {};
  }
  return bytes;
}

class FloatLinear : public Step {
 public:
  FloatLinear(const LayerCall& call, const LayerTensors& tensors)
      : call_(call),
        weights_(floats_of(call.layer, tensors)),
        bytes_(bytes_of(weights_)),
        scale_(or_all(call.layer.sums == Sums::kScaled ? tensors.scale : std::vector<float>(),
                      call.layer.outputs(), 1.0f)),
        bias_(or_all(tensors.bias, call.layer.outputs(), 0.0f)) {
    if (!bytes_.empty()) weights_ = {};
  }

  void run(const Run& run) const override {
    const ConvShape& s = call_.shape;
    const float* x = run.at<float>(call_.from);
    float* y = run.at<float>(call_.epilogue.values);
    if (bytes_.empty()) {
      linear_deterministic_cpu(x, weights_.data(), scale_.data(), bias_.data(), run.batch,
                               s.in_channels, s.out_channels, y, run.parallel);
    } else {
      linear_bytes_deterministic_cpu(x, bytes_.data(), scale_.data(), bias_.data(), run.batch,
                                     s.in_channels, s.out_channels, y, run.parallel);
    }
  }

 private:
  const LayerCall call_;
  std::vector<float> weights_;
  std::vector<int8_t> bytes_;  // the weights where they are whole numbers of a byte
  std::vector<float> scale_, bias_;
};

}  // namespace

Quantizer quantizer_of(const StoredQuantizer& stored) {
  Quantizer q = learned_quantizer(1.0f, -static_cast<float>(stored.zero_point), stored.levels);
  q.scale = stored.scale;
  return q;
}

StepPtr integer_layer(const LayerCall& call, const LayerTensors& tensors,
                      const StoredQuantizer& input) {
  return std::make_unique<IntegerLayer>(call, tensors, input);
}

StepPtr float_conv(const LayerCall& call, const LayerTensors& tensors) {
  return std::make_unique<FloatConv>(call, tensors);
}

StepPtr float_linear(const LayerCall& call, const LayerTensors& tensors) {
  return std::make_unique<FloatLinear>(call, tensors);
}

}  // namespace micronet::engine
