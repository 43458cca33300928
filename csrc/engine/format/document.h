// What a file says beside its tensors: layers, and the graph that joins them.
#ifndef MICRONET_ENGINE_FORMAT_DOCUMENT_H_
#define MICRONET_ENGINE_FORMAT_DOCUMENT_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace micronet::engine {

using Sizes = std::vector<int64_t>;
using Pair = std::array<int64_t, 2>;

constexpr int64_t kMostAxis = 2147483647;  // of a shape
constexpr int64_t kMostGeometry = 65536;   // a stride, a border

enum class Layout { kDense, kBitMask, kBlockMask };
enum class Sums { kInteger, kScaled, kFloat };

// A convolution or linear layer; its tensors are named after it.
struct Layer {
  std::string name;
  Sizes shape;  // [O, C / groups, KH, KW] or [O, K]
  Sums sums;
  Layout layout;
  int64_t values;  // stored weights
  int levels = 0;  // 0 where weights are floats
  Pair packing{};  // codes of a group, bits of a group
  Pair block{};    // rows, columns
  bool channels_last = false, has_bias = false, has_norm_scale = false;
  Pair stride{1, 1}, dilation{1, 1};
  std::array<int64_t, 4> padding{};  // top, left, bottom, right
  int64_t groups = 1;
  std::string weight_of;  // empty where it has weights of its own

  bool is_conv() const { return shape.size() == 4; }
  int64_t outputs() const { return shape[0]; }
  int64_t depth() const;  // products of an output
  int64_t numel() const { return outputs() * depth(); }
  const std::string& owner() const { return weight_of.empty() ? name : weight_of; }
};

enum class Kind {
  kInput,
  kQuantize,
  kTable,
  kConv,
  kLinear,
  kActivation,
  kPool,
  kGate,
  kAdd,
  kConcat,
  kReshape,
  kSlice,
  kPad,
  kPixels
};
enum class NodeFunction { kRelu, kRelu6, kHardswish, kHardsigmoid, kSwish, kSigmoid, kMean, kMax };

struct Node {
  Kind kind;
  std::vector<int> inputs;
  std::string name;  // of a quantizer, or the layer
  int levels = 0;    // of codes that it gives
  NodeFunction function{};
  bool is_exact = false;
  // kernel, stride, padding, dilation of a maximum; start, stop, step of a slice; before and after
  // of a border; the shape of a reshape.
  std::array<Sizes, 4> numbers;
  std::vector<float> mean, std;  // of pixels, by channel
};

// The word that a file has for a kind.
std::string_view word_of(Kind kind);

struct Document {
  Sizes input;
  std::vector<Node> nodes;
  int output;
  std::map<std::string, Layer, std::less<>> layers;
  std::string checksum, arch;
  std::vector<std::string> classes;
  std::vector<float> mean, std;

  // Whether it says how pixels of each channel are normalized.
  bool has_normalization() const;

  // Types and keys are looked at, and layers each by itself; how nodes fit each other is not.
  // Raises Refused.
  Document(std::string_view json, size_t file_bytes);
};

class JsonRef;

// One layer, or one node, held to what there can be. Raise Refused.
Layer read_layer(std::string_view name, JsonRef entry);
Node read_node(int index, JsonRef entry);

// The most weights of a file of so many bytes: a bit of a mask stands for 16 by 16 at most.
inline int64_t most_weights(size_t file_bytes) {
  return static_cast<int64_t>(file_bytes) * 8 * 16 * 16;
}

// ceil(log2 levels).
int code_bits(int levels);

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_FORMAT_DOCUMENT_H_
