// What a run is made of: steps that read and write places of the arena.
#ifndef MICRONET_ENGINE_STEPS_STEP_H_
#define MICRONET_ENGINE_STEPS_STEP_H_

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "engine/format/error.h"
#include "engine/format/weights.h"
#include "engine/graph/graph.h"
#include "include/block.h"

namespace micronet::engine {

// One run over a batch. Signals of three axes lie channels last, [images, H, W, C], all others row
// by row.
struct Run {
  int64_t batch;
  uint8_t* arena;
  const int64_t* offsets;  // by buffer
  const float* images;     // [images, C, H, W], null where there are pixels
  float* output;           // [images, ...], row by row
  const ParallelFor& parallel;
  int threads;
  const uint8_t* pixels = nullptr;  // [images, C, H, W], or with channels last
  bool pixels_last = false;

  template <typename T>
  T* at(int buffer) const {
    return reinterpret_cast<T*>(arena + offsets[buffer]);
  }
};

// The buffer of a step that writes the output.
constexpr int kOutside = -1;

class Step {
 public:
  virtual ~Step() = default;
  // Raises Refused where a value has no code.
  virtual void run(const Run& run) const = 0;

  std::string title;
};

using StepPtr = std::unique_ptr<Step>;

// Adding it changes no float, not even -0.
constexpr float kNothing = -0.0f;

// Raises Refused where one of the values that a quantizer reads is not finite.
inline void require_finite(bool is_finite, const std::string& quantizer) {
  require(is_finite, quantizer + " reads a value that is not finite, which has no code");
}

// The quantizer of codes as the core has it.
Quantizer quantizer_of(const StoredQuantizer& stored);

constexpr int kNone = -2;

// What is made of the sums of a layer: its function's values, to which a signal is added; they,
// their means and their codes are written where there is a buffer for them.
struct Epilogue {
  Function function = kIdentity;
  float most = std::numeric_limits<float>::infinity();  // that a ReLU gives
  int addend = kNone;
  int values = kNone, codes = kNone;
  int means = kNone, lanes = kNone;  // lanes: memory for kMeanLanes sums of each channel
  StoredQuantizer quantizer{};
  std::string reader;  // of the codes, for messages

  // Takes a function on; false, and no change, where steps of layers do not have it.
  bool apply(NodeFunction of_node);
};

// Convolutions and linear layers. The images of a run may lie as planes where a float convolution
// reads them: floats where the caller has them, bytes normalized in the buffer.
struct LayerCall {
  const Layer& layer;
  ConvShape shape;
  int from;
  bool has_planes;
  Epilogue epilogue;
};
// Raise Refused in a run where a value that is to have a code is not finite.
StepPtr integer_layer(const LayerCall& call, const LayerTensors& tensors,
                      const StoredQuantizer& input);
StepPtr float_conv(const LayerCall& call, const LayerTensors& tensors);
StepPtr float_linear(const LayerCall& call, const LayerTensors& tensors);

// A box of floats of each image, copied; all else of the output is 0 where `fills` says so.
struct Box {
  std::array<int64_t, 4> sizes{1, 1, 1, 1}, from_strides{}, to_strides{};
  int64_t from = 0, to = 0;              // the first element
  int64_t from_numel = 0, to_numel = 0;  // of an image
  bool fills = false;
};
StepPtr copy_box(const Box& box, int from, int to);

// The first steps, which raise Refused where an image is not finite. Images channels last or as
// planes, bytes normalized as the document says; planes of floats stay where they are.
StepPtr read_images(const Document& document, bool as_planes, int to);
// The grey values that a `pixels` node gives a layer, channels last, with the layer's border.
StepPtr read_grey_values(const Node& node, const Sizes& shape, const Layer& layer, int to);
// The shape of a layer whose images have their border.
ConvShape with_border(ConvShape shape, const Layer& layer);

// Values of `numel` an image to codes, codes to codes, codes to values.
StepPtr quantize_values(const StoredQuantizer& to, int64_t numel, int from, int into,
                        std::string title);
StepPtr map_codes(std::vector<uint8_t> table, int64_t numel, int from, int to);
StepPtr decode(const StoredQuantizer& of, int64_t numel, int from, int to);

StepPtr apply_function(NodeFunction function, int64_t numel, int from, int to);
StepPtr mean_of(const Sizes& shape, int from, int to);
StepPtr max_of(const Node& node, const Sizes& input, const Sizes& output, int from, int to);
StepPtr add(int64_t numel, int one, int other, int to);
// Signals [outer, channels], each channel with one factor, to codes.
StepPtr gate_codes(const Sizes& shape, const StoredQuantizer& quantizer, int from, int by, int to,
                   std::string title);
// Signals as [outer, channels, inner]; each channel has one factor.
StepPtr gate(const Sizes& shape, int64_t factors, int from, int by, int to);
StepPtr concat(const std::vector<Sizes>& shapes, const std::vector<int>& from, int to);

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_STEPS_STEP_H_
