// Shapes and levels, node by node.

#include "engine/graph/graph.h"

#include <algorithm>
#include <set>

#include "engine/format/error.h"

namespace micronet::engine {
namespace {

// Values of one signal of one image.
constexpr int64_t kMostValues = int64_t{1} << 28;

void check_shape(const Sizes& shape, const std::string& what) {
  bool fits = !shape.empty() && shape.size() <= 4;
  int64_t numel = 1;
  for (const int64_t size : shape) {
    fits = fits && size >= 1 && size <= kMostValues / numel;
    if (fits) numel *= size;
  }
  require(fits, what + " would have the shape " + text_of(shape));
}

using Inputs = std::vector<const Signal*>;

int64_t windows(int64_t size, int64_t border, int64_t kernel, int64_t stride, int64_t dilation) {
  const int64_t left = size + border - dilation * (kernel - 1) - 1;
  return left < 0 ? 0 : left / stride + 1;
}

const Layer& layer_of(const Document& document, const Node& node, const Signal& x,
                      const std::string& what) {
  const auto found = document.layers.find(node.name);
  require(found != document.layers.end(),
          what + " calls layer '" + node.name + "', which there is not");
  const Layer& layer = found->second;
  const std::string named = what + ": layer '" + layer.name + "'";
  require(layer.is_conv() == (node.kind == Kind::kConv),
          named + " has weights of " + std::to_string(layer.shape.size()) + " axes");
  if (layer.sums == Sums::kInteger) {
    require(x.levels > 0, named + " sums integers, but reads none");
    const int64_t most = int64_t{x.levels - 1} * (layer.levels - 1);
    require(layer.depth() <= kMostInt32 / most, named + ": its sums need more than 32 bits");
  }
  require(layer.sums == Sums::kInteger || !x.is_grey,
          named + " reads grey values, but its sums are no integers");
  require(layer.sums != Sums::kScaled || x.levels == 0,
          named + " sums values by integers of weights, but reads codes");
  return layer;
}

Signal conv(const Document& document, const Node& node, const Signal& x, const std::string& what) {
  const Layer& layer = layer_of(document, node, x, what);
  const bool fits = x.shape.size() == 3 && layer.shape[1] <= x.shape[0] &&
                    x.shape[0] == layer.shape[1] * layer.groups;
  require(fits,
          what + ": layer '" + layer.name + "' does not take a signal of " + text_of(x.shape));
  const auto& [top, left, bottom, right] = layer.padding;
  check_shape({x.shape[0], x.shape[1] + top + bottom, x.shape[2] + left + right},
              what + ": its image with a border");
  return {{layer.outputs(),
           windows(x.shape[1], top + bottom, layer.shape[2], layer.stride[0], layer.dilation[0]),
           windows(x.shape[2], left + right, layer.shape[3], layer.stride[1], layer.dilation[1])}};
}

Signal linear(const Document& document, const Node& node, const Signal& x,
              const std::string& what) {
  const Layer& layer = layer_of(document, node, x, what);
  require(x.shape.size() == 1 && x.shape[0] == layer.shape[1],
          what + ": layer '" + layer.name + "' does not take a signal of " + text_of(x.shape));
  return {{layer.outputs()}};
}

Signal pool(const Node& node, const Signal& x, const std::string& what) {
  require(x.shape.size() == 3, what + " pools a signal of " + text_of(x.shape));
  if (node.function == NodeFunction::kMean) return {{x.shape[0], 1, 1}};
  const auto& [kernel, stride, padding, dilation] = node.numbers;
  Signal result{{x.shape[0]}};
  for (size_t i = 0; i < 2; ++i) {
    require(2 * padding[i] <= kernel[i], what + ": its padding is more than half of its kernel");
    result.shape.push_back(
        windows(x.shape[i + 1], 2 * padding[i], kernel[i], stride[i], dilation[i]));
  }
  return result;
}

Signal gate(const Inputs& inputs, const std::string& what) {
  const Sizes &shape = inputs[0]->shape, &factors = inputs[1]->shape;
  Sizes by_channel(shape.size(), 1);
  by_channel[0] = shape[0];
  require(factors == shape || factors == by_channel,
          what + " multiplies " + text_of(shape) + " by " + text_of(factors));
  return {shape};
}

Signal concat(const Inputs& inputs, const std::string& what) {
  Signal result{inputs[0]->shape};
  for (size_t i = 1; i < inputs.size(); ++i) {
    const Sizes& next = inputs[i]->shape;
    const bool fits = next.size() == result.shape.size() &&
                      std::equal(next.begin() + 1, next.end(), result.shape.begin() + 1);
    require(fits, what + ": its signals differ behind their first axis");
    result.shape[0] += next[0];
  }
  return result;
}

Signal slice(const Node& node, const Signal& x, const std::string& what) {
  const auto& [start, stop, step, none] = node.numbers;
  const size_t axes = x.shape.size();
  require(start.size() == axes && stop.size() == axes && step.size() == axes,
          what + ": start, stop and step have not the axes of " + text_of(x.shape));
  Signal result;
  for (size_t i = 0; i < axes; ++i) {
    require(start[i] < stop[i] && stop[i] <= x.shape[i],
            what + ": a part is outside of " + text_of(x.shape));
    result.shape.push_back((stop[i] - start[i] - 1) / step[i] + 1);
  }
  return result;
}

Signal pad(const Node& node, const Signal& x, const std::string& what) {
  const auto& [before, after, none, no] = node.numbers;
  const size_t axes = x.shape.size();
  require(before.size() == axes && after.size() == axes,
          what + ": before and after have not the axes of " + text_of(x.shape));
  Signal result;
  for (size_t i = 0; i < axes; ++i) result.shape.push_back(before[i] + x.shape[i] + after[i]);
  return result;
}

Signal coded(const Node& node, const Signal& x, const std::string& what) {
  require((node.kind == Kind::kTable) == (x.levels > 0),
          what + (x.levels > 0 ? " reads codes, which only a table turns into others"
                               : " reads values, but a table has an entry for each code"));
  return {x.shape, node.levels};
}

Signal pixels(const Document& document, const Node& node, const std::string& what) {
  const size_t channels = static_cast<size_t>(document.input[0]);
  require(node.inputs[0] == 0 && node.mean.size() == channels,
          what + " must read the image, and have a mean for each of " + std::to_string(channels) +
              " channels");
  return {document.input, node.levels, true};
}

Signal signal_of(const Document& document, const Node& node, const Inputs& inputs,
                 const std::string& what) {
  for (const Signal* input : inputs) {
    require(!input->is_grey || node.kind == Kind::kConv,
            what + " reads grey values, which only a convolution of integer sums takes");
  }
  switch (node.kind) {
    case Kind::kInput:
      return {document.input};
    case Kind::kPixels:
      return pixels(document, node, what);
    case Kind::kQuantize:
    case Kind::kTable:
      return coded(node, *inputs[0], what);
    case Kind::kConv:
      return conv(document, node, *inputs[0], what);
    case Kind::kLinear:
      return linear(document, node, *inputs[0], what);
    case Kind::kPool:
      return pool(node, *inputs[0], what);
    case Kind::kGate:
      return gate(inputs, what);
    case Kind::kAdd:
      require(inputs[0]->shape == inputs[1]->shape,
              what + " adds " + text_of(inputs[0]->shape) + " and " + text_of(inputs[1]->shape));
      return {inputs[0]->shape};
    case Kind::kConcat:
      return concat(inputs, what);
    case Kind::kReshape:
      return {node.numbers[0]};
    case Kind::kSlice:
      return slice(node, *inputs[0], what);
    case Kind::kPad:
      return pad(node, *inputs[0], what);
    default:
      return {inputs[0]->shape};  // an activation
  }
}

// Every node, layer and name has a use, and but one.
void check_uses(const Document& document) {
  std::vector<bool> read(document.nodes.size(), false);
  read[static_cast<size_t>(document.output)] = true;
  std::set<std::string> called, quantizers;
  for (const Node& node : document.nodes) {
    for (const int input : node.inputs) read[static_cast<size_t>(input)] = true;
    if (node.kind == Kind::kConv || node.kind == Kind::kLinear) called.insert(node.name);
    if (node.levels > 0) {
      require(quantizers.insert(node.name).second, "two quantizers are named '" + node.name + "'");
    }
  }
  for (size_t i = 0; i < read.size(); ++i) {
    require(read[i], title_of(document, static_cast<int>(i)) + " is read by none");
  }
  for (const auto& [name, layer] : document.layers) {
    require(called.contains(name), "layer '" + name + "' is called by no node");
  }
}

}  // namespace

int64_t Signal::numel() const {
  int64_t numel = 1;
  for (const int64_t size : shape) numel *= size;
  return numel;
}

std::string text_of(const Sizes& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "[" : ", ") + std::to_string(size);
  return text.empty() ? "[]" : text + "]";
}

std::string title_of(const Document& document, int index) {
  const Kind kind = document.nodes[static_cast<size_t>(index)].kind;
  return "nodes[" + std::to_string(index) + "] (" + std::string(word_of(kind)) + ")";
}

std::vector<Signal> signals_of(const Document& document) {
  std::vector<Signal> found;
  found.reserve(document.nodes.size());
  for (size_t i = 0; i < document.nodes.size(); ++i) {
    const Node& node = document.nodes[i];
    const std::string what = title_of(document, static_cast<int>(i));
    Inputs inputs;
    for (const int input : node.inputs) inputs.push_back(&found[static_cast<size_t>(input)]);
    const Signal signal = signal_of(document, node, inputs, what);
    check_shape(signal.shape, what);
    require(node.kind != Kind::kReshape || signal.numel() == inputs[0]->numel(),
            what + ": " + text_of(signal.shape) + " is no shape of the values it reads");
    found.push_back(signal);
  }
  require(!found[static_cast<size_t>(document.output)].is_grey, "the output is grey values");
  check_uses(document);
  return found;
}

ConvShape conv_shape(const Layer& layer, const Sizes& input, const Sizes& output) {
  const bool is_conv = layer.is_conv();
  ConvShape s{};
  s.images = 1;
  s.in_channels = input[0], s.out_channels = output[0];
  s.height = is_conv ? input[1] : 1, s.width = is_conv ? input[2] : 1;
  s.out_height = is_conv ? output[1] : 1, s.out_width = is_conv ? output[2] : 1;
  s.groups = layer.groups;
  s.kernel_height = is_conv ? layer.shape[2] : 1, s.kernel_width = is_conv ? layer.shape[3] : 1;
  s.stride_y = layer.stride[0], s.stride_x = layer.stride[1];
  s.top = layer.padding[0], s.left = layer.padding[1];
  s.dilation_y = layer.dilation[0], s.dilation_x = layer.dilation[1];
  return s;
}

}  // namespace micronet::engine
