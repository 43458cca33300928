// A node: its keys, by its kind.

#include "engine/format/document.h"
#include "engine/format/error.h"
#include "engine/format/json.h"
#include "include/core.h"

namespace micronet::engine {
namespace {

constexpr std::string_view kWords[] = {"input",      "quantize", "table", "conv",  "linear",
                                       "activation", "pool",     "gate",  "add",   "concat",
                                       "reshape",    "slice",    "pad",   "pixels"};

NodeFunction function_of(Fields* fields, Kind kind) {
  constexpr std::pair<std::string_view, NodeFunction> kFunctions[] = {
      {"relu", NodeFunction::kRelu},           {"relu6", NodeFunction::kRelu6},
      {"hardswish", NodeFunction::kHardswish}, {"hardsigmoid", NodeFunction::kHardsigmoid},
      {"swish", NodeFunction::kSwish},         {"sigmoid", NodeFunction::kSigmoid},
      {"mean", NodeFunction::kMean},           {"max", NodeFunction::kMax}};
  const std::string_view text = fields->get("function").text(fields->of("function"));
  for (const auto& [word, function] : kFunctions) {
    const bool pools = function == NodeFunction::kMean || function == NodeFunction::kMax;
    if (word == text && pools == (kind == Kind::kPool)) return function;
  }
  refuse(fields->of("function") + " is '" + std::string(text) + "', which it cannot be");
}

void read_function(Fields* fields, Node* node) {
  node->function = function_of(fields, node->kind);
  node->is_exact = fields->get("exact").boolean(fields->of("exact"));
  const bool may_differ = node->function == NodeFunction::kSwish ||
                          node->function == NodeFunction::kSigmoid ||
                          node->function == NodeFunction::kMean;
  require(node->is_exact || may_differ,
          fields->what() + ": its function is exact on every machine");
}

void read_windows(Fields* fields, Node* node) {
  if (node->kind != Kind::kPool || node->function != NodeFunction::kMax) return;
  constexpr std::string_view kKeys[] = {"kernel", "stride", "padding", "dilation"};
  for (size_t i = 0; i < 4; ++i) {
    node->numbers[i] = fields->wholes(kKeys[i], i == 2 ? 0 : 1, kMostGeometry);
    require(node->numbers[i].size() == 2, fields->of(kKeys[i]) + " must be two numbers");
  }
}

void read_rest(Fields* fields, Node* node) {
  const Kind kind = node->kind;
  if (kind == Kind::kQuantize || kind == Kind::kTable) {
    node->name = fields->get("name").text(fields->of("name"));
    node->levels =
        static_cast<int>(fields->get("levels").whole(fields->of("levels"), 2, kMostLevels));
  } else if (kind == Kind::kConv || kind == Kind::kLinear) {
    node->name = fields->get("layer").text(fields->of("layer"));
  } else if (kind == Kind::kActivation || kind == Kind::kPool) {
    read_function(fields, node);
    read_windows(fields, node);
  } else if (kind == Kind::kReshape) {
    node->numbers[0] = fields->wholes("shape", 1, kMostAxis);
  } else if (kind == Kind::kSlice) {
    node->numbers = {fields->wholes("start", 0, kMostAxis), fields->wholes("stop", 1, kMostAxis),
                     fields->wholes("step", 1, kMostAxis)};
  } else if (kind == Kind::kPixels) {
    node->name = fields->get("name").text(fields->of("name"));
    node->levels = kMostLevels;
    node->mean = floats(fields->get("mean"), fields->of("mean"));
    node->std = floats(fields->get("std"), fields->of("std"));
  } else if (kind == Kind::kPad) {
    node->numbers = {fields->wholes("before", 0, kMostGeometry),
                     fields->wholes("after", 0, kMostGeometry)};
  }
}

Kind kind_of(std::string_view word, const std::string& what) {
  for (size_t i = 0; i < std::size(kWords); ++i) {
    if (kWords[i] == word) return static_cast<Kind>(i);
  }
  refuse(what + " is of no kind that version 1 has: '" + std::string(word) + "'");
}

}  // namespace

std::string_view word_of(Kind kind) { return kWords[static_cast<size_t>(kind)]; }

Node read_node(int index, JsonRef entry) {
  Fields fields(entry, "nodes[" + std::to_string(index) + "]");
  Node node{};
  node.kind = kind_of(fields.get("kind").text(fields.of("kind")), fields.what());
  require((index == 0) == (node.kind == Kind::kInput),
          fields.what() + ": the first node, and it alone, is the image");
  if (index > 0) {
    for (const int64_t input : fields.wholes("inputs", 0, index - 1)) {
      node.inputs.push_back(static_cast<int>(input));
    }
  }
  const bool is_pair = node.kind == Kind::kGate || node.kind == Kind::kAdd;
  const size_t wanted = index == 0 ? 0 : is_pair ? 2 : 1, found = node.inputs.size();
  require(node.kind == Kind::kConcat ? found > 0 : found == wanted,
          fields.what() + " reads " + std::to_string(found) + " nodes, but must read " +
              std::to_string(wanted));
  read_rest(&fields, &node);
  fields.finish();
  return node;
}

}  // namespace micronet::engine
