// Convolutions and linear layers: sums by the core's launchers, and what follows them.

#include "engine/steps/arena.h"
#include "engine/steps/finish.h"
#include "engine/steps/layer_weights.h"
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

// Loops of a load, which one thread runs.
constexpr ParallelFor kAlone{[](int64_t count, int64_t, void (*body)(void*, int64_t, int64_t),
                                void* context) { body(context, 0, count); }};

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
                call.shape.out_height * call.shape.out_width,
                bounds_of(call.layer, tensors, input)) {
    const size_t outputs = tensors.scale.size();
    const std::vector<float> one(outputs, 1.0f);  // sums stay integers
    std::vector<float> zeros(outputs), ratio(outputs);
    for (size_t o = 0; o < outputs; ++o) zeros[o] = -static_cast<float>(tensors.zero_point[o]);
    QuantConv conv = operands(call.shape);
    conv.ratio = ratio.data();
    lay_out_weights_cpu(conv, {tensors.codes.data(), one.data(), zeros.data()}, memory_.data(),
                        kAlone);
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

class FloatLinear : public Step {
 public:
  FloatLinear(const LayerCall& call, const LayerTensors& tensors)
      : call_(call),
        weights_(call.layer, tensors),
        scale_(or_all(call.layer.sums == Sums::kScaled ? tensors.scale : std::vector<float>(),
                      call.layer.outputs(), 1.0f)),
        bias_(or_all(tensors.bias, call.layer.outputs(), 0.0f)) {}

  void run(const Run& run) const override {
    const ConvShape& s = call_.shape;
    const float* x = run.at<float>(call_.from);
    float* y = run.at<float>(call_.epilogue.values);
    if (weights_.bytes.empty()) {
      linear_deterministic_cpu(x, weights_.floats.data(), scale_.data(), bias_.data(), run.batch,
                               s.in_channels, s.out_channels, y, run.parallel);
    } else {
      linear_bytes_deterministic_cpu(x, weights_.bytes.data(), scale_.data(), bias_.data(),
                                     run.batch, s.in_channels, s.out_channels, y, run.parallel);
    }
  }

 private:
  const LayerCall call_;
  LinearWeights weights_;
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
