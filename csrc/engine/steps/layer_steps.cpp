// Convolutions and linear layers: sums by the core's launchers, then what follows them in one pass.

#include <cfloat>
#include <cmath>
#include <cstring>

#include "cpu/block_cut.h"
#include "engine/format/error.h"
#include "engine/steps/arena.h"
#include "engine/steps/step.h"
#include "include/conv_workspace.h"
#include "include/exact.h"

namespace micronet::engine {
namespace {

// Adding it changes no float, not even -0.
constexpr float kNothing = -0.0f;

std::vector<float> or_all(const std::vector<float>& values, int64_t count, float usual) {
  return values.empty() ? std::vector<float>(static_cast<size_t>(count), usual) : values;
}

ConvShape for_batch(ConvShape shape, int64_t batch) {
  shape.images = batch;
  return shape;
}

// Values of sums, or their codes.
void finish(const LayerCall& call, Block block, const Run& run) {
  block.function = call.epilogue.function;
  if (!call.epilogue.has_codes) {
    block_values_cpu(block, run.at<float>(call.to), run.parallel);
    return;
  }
  const Quantizer q = quantizer_of(call.epilogue.quantizer);
  uint8_t* codes = run.at<uint8_t>(call.to);
  each_run(block, nullptr, run.parallel,
           [&](const Constants&, const BlockRun& part, int64_t first) {
             kernels().block_codes(part, q, codes + first);
           });
}

class IntegerLayer : public Step {
 public:
  IntegerLayer(const LayerCall& call, const LayerTensors& tensors, const StoredQuantizer& input)
      : call_(call),
        kind_(accumulator_of(call.layer, call.shape, input.levels)),
        levels_(input.levels),
        weight_levels_(call.layer.levels),
        range_{1.0f, -static_cast<float>(input.zero_point)},
        memory_(quant_conv2d_weight_bytes(call.shape)),
        scale_(tensors.scale),
        shift_(or_all(tensors.bias, call.layer.outputs(), 0.0f)) {
    const ConvWorkspace at(call.shape);
    uint8_t* memory = memory_.data();
    std::memcpy(memory + at.weight_codes, tensors.codes.data(), tensors.codes.size());
    float* scales = reinterpret_cast<float*>(memory + at.scale);
    float* zeros = reinterpret_cast<float*>(memory + at.zero_point);
    for (size_t o = 0; o < scale_.size(); ++o) {
      scales[o] = 1.0f;  // sums stay integers
      zeros[o] = -static_cast<float>(tensors.zero_point[o]);
    }
    std::vector<float> ratio(scale_.size());
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
    conv.out = run.at<void*>(call_.sums);
    quant_conv2d_laid_out_cpu(conv, memory_.data(), run.parallel);
    finish(call_,
           {conv.out, kind_, shape.images, shape.out_height * shape.out_width, shape.out_channels,
            scale_.data(), shift_.data(), kIdentity, nullptr},
           run);
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
  std::vector<float> scale_, shift_;
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
        bias_(tensors.bias),
        scale_(or_all(tensors.norm_scale, call.layer.outputs(), 1.0f)),
        is_normed_(!tensors.norm_scale.empty()) {
    lay_out_conv2d_deterministic_cpu(call.shape, floats_of(call.layer, tensors).data(),
                                     laid_out_.data());
    shift_ = is_normed_ ? or_all(bias_, call.layer.outputs(), 0.0f)
                        : or_all({}, call.layer.outputs(), kNothing);
  }

  void run(const Run& run) const override {
    const ConvShape shape = for_batch(call_.shape, run.batch);
    const bool ends = !is_normed_ && call_.epilogue.function == kIdentity;
    const float* bias = is_normed_ || bias_.empty() ? nullptr : bias_.data();
    float* sums = run.at<float>(ends ? call_.to : call_.sums);
    conv2d_deterministic_laid_out_cpu(shape, run.at<float>(call_.from), laid_out_.data(), bias,
                                      sums, run.parallel);
    if (ends) return;
    finish(call_,
           {sums, kValue, shape.images, shape.out_height * shape.out_width, shape.out_channels,
            scale_.data(), shift_.data(), kIdentity, nullptr},
           run);
  }

 private:
  const LayerCall call_;
  std::vector<float> laid_out_, bias_, scale_, shift_;
  bool is_normed_;
};

class FloatLinear : public Step {
 public:
  FloatLinear(const LayerCall& call, const LayerTensors& tensors)
      : call_(call),
        weights_(floats_of(call.layer, tensors)),
        scale_(or_all(call.layer.sums == Sums::kScaled ? tensors.scale : std::vector<float>(),
                      call.layer.outputs(), 1.0f)),
        bias_(or_all(tensors.bias, call.layer.outputs(), 0.0f)) {}

  void run(const Run& run) const override {
    const ConvShape& s = call_.shape;
    linear_deterministic_cpu(run.at<float>(call_.from), weights_.data(), scale_.data(),
                             bias_.data(), run.batch, s.in_channels, s.out_channels,
                             run.at<float>(call_.to), run.parallel);
  }

 private:
  const LayerCall call_;
  std::vector<float> weights_, scale_, bias_;
};

}  // namespace

Quantizer quantizer_of(const StoredQuantizer& stored) {
  Quantizer q = learned_quantizer(1.0f, -static_cast<float>(stored.zero_point), stored.levels);
  q.scale = stored.scale;
  return q;
}

Accumulator accumulator_of(const Layer& layer, const ConvShape& shape, int levels) {
  return accumulator_bound(shape, levels, layer.levels) <= kMostInt16 ? kInt16 : kInt32;
}

bool is_bounded(const Layer& layer, const LayerTensors& tensors, const ConvShape& shape,
                int levels) {
  const double most = static_cast<double>(accumulator_bound(shape, levels, layer.levels));
  double largest = 0.0;
  for (size_t o = 0; o < tensors.scale.size(); ++o) {
    const double bias = tensors.bias.empty() ? 0.0 : std::fabs(tensors.bias[o]);
    largest = std::max(largest, most * std::fabs(tensors.scale[o]) + bias);
  }
  return largest < FLT_MAX / 2.0;
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
