// The steps of a graph.

#include "engine/run/plan.h"

#include <algorithm>

#include "engine/format/error.h"
#include "engine/steps/boxes.h"
#include "include/exact.h"

namespace micronet::engine {
namespace {

class Planner {
 public:
  Planner(const Document& document, const std::vector<Signal>& signals, Tensors* tensors)
      : document_(document),
        signals_(signals),
        tensors_(*tensors),
        quantizers_(document.nodes.size()),
        values_(document.nodes.size(), kNone),
        codes_(document.nodes.size(), kNone),
        readers_(document.nodes.size()),
        is_done_(document.nodes.size(), false) {
    for (size_t i = 0; i < document.nodes.size(); ++i) {
      const Node& node = document.nodes[i];
      for (const int input : node.inputs) readers_[at(input)].push_back(static_cast<int>(i));
      if (node.levels > 0) quantizers_[i] = tensors_.quantizer(node);
    }
  }

  Plan make() {
    for (size_t i = 0; i < document_.nodes.size(); ++i) {
      if (!is_done_[i]) add_node(static_cast<int>(i));
    }
    const Sizes& shape = shape_of(document_.output);
    const int from = values_of(document_.output);
    emit(copy_box(whole_box(shape, strides_of(shape), row_strides(shape)), from, kOutside),
         document_.output, "output", {from});
    return std::move(plan_);
  }

 private:
  static size_t at(int index) { return static_cast<size_t>(index); }
  const Node& node(int index) const { return document_.nodes[at(index)]; }
  const Sizes& shape_of(int index) const { return signals_[at(index)].shape; }
  int64_t numel(int index) const { return signals_[at(index)].numel(); }

  int new_buffer(int64_t bytes_per_image) {
    plan_.buffers.push_back({bytes_per_image, static_cast<int>(plan_.steps.size()), 0});
    return static_cast<int>(plan_.buffers.size()) - 1;
  }
  int values_for(int index) { return values_[at(index)] = new_buffer(4 * numel(index)); }
  int codes_for(int index) { return codes_[at(index)] = new_buffer(numel(index)); }

  void emit(StepPtr step, int index, const std::string& name, const std::vector<int>& buffers) {
    step->title = title_of(document_, index) + (name.empty() ? "" : " " + name);
    for (const int buffer : buffers) {
      if (buffer < 0) continue;
      plan_.buffers[at(buffer)].last = static_cast<int>(plan_.steps.size());
    }
    plan_.steps.push_back(std::move(step));
  }

  // The values of a node; those of codes are made when they are first asked for.
  int values_of(int index) {
    if (values_[at(index)] != kNone) return values_[at(index)];
    const int from = codes_[at(index)], to = values_for(index);
    emit(decode(quantizers_[at(index)], numel(index), from, to), index, "values", {from, to});
    return to;
  }

  int only_reader(int index) const {
    const bool is_one = readers_[at(index)].size() == 1 && index != document_.output;
    return is_one ? readers_[at(index)][0] : kNone;
  }

  // A quantizer as messages name it.
  std::string quoted(int index) const {
    return title_of(document_, index) + " '" + node(index).name + "'";
  }

  // A node is done with the step that makes what it reads.
  int take(int index) {
    is_done_[at(index)] = true;
    return index;
  }

  bool is(int index, Kind kind) const { return index != kNone && node(index).kind == kind; }

  // Takes the function behind a layer and the sum behind that into its step, where each is the only
  // reader of the one before; returns the node whose signal the step gives.
  int absorb(int index, Epilogue* epilogue) {
    int end = index, next = only_reader(end);
    if (is(next, Kind::kActivation)) {
      if (!epilogue->apply(node(next).function)) return end;
      end = take(next), next = only_reader(end);
    }
    if (!is(next, Kind::kAdd)) return end;
    const std::vector<int>& terms = node(next).inputs;
    const int other = terms[0] == end ? terms[1] : terms[0];
    if (values_[at(other)] == kNone && codes_[at(other)] == kNone) return end;
    epilogue->addend = values_of(other);
    return take(next);
  }

  // Buffers for what the readers of a signal want of it: codes, means, values.
  void add_outputs(int end, Epilogue* epilogue) {
    bool wants_values = end == document_.output || readers_[at(end)].empty();
    for (const int reader : readers_[at(end)]) {
      if (is(reader, Kind::kQuantize) && epilogue->codes == kNone) {
        epilogue->codes = codes_for(take(reader));
        epilogue->quantizer = quantizers_[at(reader)];
        epilogue->reader = quoted(reader);
      } else if (is(reader, Kind::kPool) && node(reader).function == NodeFunction::kMean &&
                 epilogue->means == kNone) {
        epilogue->means = values_for(take(reader));
        epilogue->lanes = new_buffer(4 * kLanes * shape_of(end)[0]);
      } else {
        wants_values = true;
      }
    }
    if (wants_values) epilogue->values = values_for(end);
  }

  // Whether a float convolution alone reads the images, which it takes as planes.
  bool reads_images(int index) const {
    const int reader = only_reader(index);
    if (!is(index, Kind::kInput) || !is(reader, Kind::kConv)) return false;
    return document_.layers.at(node(reader).name).sums != Sums::kInteger;
  }

  void add_layer(int index) {
    const Layer& layer = document_.layers.at(node(index).name);
    const int source = node(index).inputs[0];
    const LayerTensors tensors = tensors_.of_layer(layer, document_);
    LayerCall call{layer, conv_shape(layer, shape_of(source), shape_of(index)), kNone, false, {}};
    const bool is_integer = layer.sums == Sums::kInteger;
    call.from = is_integer ? codes_of(source, &call) : values_of(source);
    call.has_planes = reads_images(source);
    if (is_integer || layer.is_conv()) {
      add_outputs(absorb(index, &call.epilogue), &call.epilogue);
    } else {
      call.epilogue.values = values_for(index);
    }
    const Epilogue& e = call.epilogue;
    emit(is_integer        ? integer_layer(call, tensors, quantizers_[at(source)])
         : layer.is_conv() ? float_conv(call, tensors)
                           : float_linear(call, tensors),
         index, layer.name, {call.from, e.addend, e.values, e.codes, e.means, e.lanes});
  }

  // The codes that a layer reads; of grey values, whose border is no 0, with that.
  int codes_of(int index, LayerCall* call) {
    if (node(index).kind != Kind::kPixels) return codes_[at(index)];
    call->shape = with_border(call->shape, call->layer);
    const ConvShape& s = call->shape;
    const int to = new_buffer(s.height * s.width * s.in_channels);
    emit(read_grey_values(node(index), shape_of(index), call->layer, to), index, node(index).name,
         {to});
    return to;
  }

  bool has_values(int index) const {
    return std::any_of(readers_[at(index)].begin(), readers_[at(index)].end(),
                       [&](int reader) { return node(reader).kind != Kind::kPixels; });
  }

  void add_codes(int index) {
    const int source = node(index).inputs[0];
    const std::string& name = node(index).name;
    if (node(index).kind == Kind::kQuantize) {
      const int from = values_of(source), to = codes_for(index);
      emit(quantize_values(quantizers_[at(index)], numel(index), from, to, quoted(index)), index,
           name, {from, to});
      return;
    }
    std::vector<uint8_t> table = tensors_.table(node(index), node(source).levels);
    const int from = codes_[at(source)], to = codes_for(index);
    emit(map_codes(std::move(table), numel(index), from, to), index, name, {from, to});
  }

  // The same values in the order of rows, and from there in the new shape's own.
  void add_reshape(int index) {
    const int source = node(index).inputs[0], from = values_of(source);
    const Sizes &before = shape_of(source), &after = shape_of(index);
    const int rows = new_buffer(4 * numel(index));
    emit(copy_box(whole_box(before, strides_of(before), row_strides(before)), from, rows), index,
         "", {from, rows});
    const int to = values_for(index);
    emit(copy_box(whole_box(after, row_strides(after), strides_of(after)), rows, to), index, "",
         {rows, to});
  }

  void add_node(int index) {
    switch (node(index).kind) {
      case Kind::kConv:
      case Kind::kLinear:
        return add_layer(index);
      case Kind::kQuantize:
      case Kind::kTable:
        return add_codes(index);
      case Kind::kReshape:
        return add_reshape(index);
      case Kind::kPixels:
        return;  // a layer that reads them does
      case Kind::kInput:
        if (has_values(index) || index == document_.output) add_values(index);
        return;
      default:
        add_values(index);
    }
  }

  // A factor for each channel, and codes of the products alone.
  bool add_gate_codes(int index) {
    const int reader = only_reader(index);
    const std::vector<int>& inputs = node(index).inputs;
    const Sizes& shape = shape_of(index);
    const bool by_channel = shape.size() == 3 && numel(inputs[1]) == shape[0];
    if (!is(reader, Kind::kQuantize) || !by_channel || numel(index) == shape[0]) return false;
    const int from = values_of(inputs[0]), by = values_of(inputs[1]), to = codes_for(take(reader));
    const std::string& name = node(reader).name;
    emit(gate_codes(shape, quantizers_[at(reader)], from, by, to, quoted(reader)), index, name,
         {from, by, to});
    return true;
  }

  void add_values(int index) {
    if (is(index, Kind::kGate) && add_gate_codes(index)) return;
    std::vector<int> buffers;
    for (const int input : node(index).inputs) buffers.push_back(values_of(input));
    const int to = values_for(index);
    StepPtr step = step_of(index, buffers, to);
    buffers.push_back(to);
    emit(std::move(step), index, "", buffers);
  }

  StepPtr step_of(int index, const std::vector<int>& from, int to) const {
    const Node& n = node(index);
    const Sizes& shape = shape_of(index);
    const auto of_input = [&](size_t i) -> const Sizes& { return shape_of(n.inputs[i]); };
    switch (n.kind) {
      case Kind::kInput:
        return read_images(document_, reads_images(index), to);
      case Kind::kActivation:
        return apply_function(n.function, numel(index), from[0], to);
      case Kind::kPool:
        if (n.function == NodeFunction::kMean) return mean_of(of_input(0), from[0], to);
        return max_of(n, of_input(0), shape, from[0], to);
      case Kind::kGate:
        return gate(shape, numel(n.inputs[1]), from[0], from[1], to);
      case Kind::kAdd:
        return add(numel(index), from[0], from[1], to);
      case Kind::kConcat: {
        std::vector<Sizes> shapes;
        for (const int input : n.inputs) shapes.push_back(shape_of(input));
        return concat(shapes, from, to);
      }
      case Kind::kSlice:
        return copy_box(slice_box(n, of_input(0), shape), from[0], to);
      default:
        return copy_box(pad_box(n, of_input(0), shape), from[0], to);
    }
  }

  const Document& document_;
  const std::vector<Signal>& signals_;
  Tensors& tensors_;
  std::vector<StoredQuantizer> quantizers_;  // by node, of those that give codes
  std::vector<int> values_, codes_;          // buffers by node
  std::vector<std::vector<int>> readers_;
  std::vector<bool> is_done_;  // with the step of another node
  Plan plan_;
};

}  // namespace

Plan make_plan(const Document& document, const std::vector<Signal>& signals, size_t file_bytes,
               Tensors* tensors) {
  // A layer that several nodes call is laid out for each.
  int64_t weights = 0;
  for (const Node& node : document.nodes) {
    if (node.kind != Kind::kConv && node.kind != Kind::kLinear) continue;
    weights += document.layers.at(node.name).numel();
    require(weights <= most_weights(file_bytes),
            "its layers are called with more weights than a file of its size holds");
  }
  return Planner(document, signals, tensors).make();
}

}  // namespace micronet::engine
