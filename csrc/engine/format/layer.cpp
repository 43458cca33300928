// A layer: its keys, and what they can be.

#include <algorithm>
#include <bit>
#include <optional>

#include "engine/format/document.h"
#include "engine/format/error.h"
#include "engine/format/json.h"
#include "include/core.h"

namespace micronet::engine {
namespace {

constexpr int64_t kMostSide = 16;  // rows of a block, and columns but for the area of a kernel

template <typename T>
T chosen(Fields* fields, std::string_view key,
         std::initializer_list<std::pair<std::string_view, T>> words) {
  const std::string_view text = fields->get(key).text(fields->of(key));
  for (const auto& [word, meaning] : words) {
    if (word == text) return meaning;
  }
  refuse(fields->of(key) + " is '" + std::string(text) + "', which this program does not know");
}

Pair pair_of(Fields* fields, std::string_view key, int64_t least, int64_t most) {
  const Sizes numbers = fields->wholes(key, least, most);
  require(numbers.size() == 2, fields->of(key) + " must be two numbers");
  return {numbers[0], numbers[1]};
}

void read_shape(Fields* fields, Layer* layer) {
  layer->shape = fields->wholes("shape", 1, kMostAxis);
  require(layer->shape.size() == 2 || layer->shape.size() == 4,
          fields->of("shape") + " must be of two or four sizes");
  int64_t numel = 1;
  for (const int64_t size : layer->shape) {
    require(size <= kMostAxis / numel, fields->of("shape") + " is of too many weights");
    numel *= size;
  }
}

void read_geometry(Fields* fields, Layer* layer) {
  if (!layer->is_conv()) return;
  layer->stride = pair_of(fields, "stride", 1, kMostGeometry);
  layer->dilation = pair_of(fields, "dilation", 1, kMostGeometry);
  const Sizes padding = fields->wholes("padding", 0, kMostGeometry);
  require(padding.size() == 4, fields->of("padding") + " must be four numbers");
  std::copy(padding.begin(), padding.end(), layer->padding.begin());
  require(std::max(layer->shape[2], layer->shape[3]) <= kMostGeometry,
          fields->what() + ": its kernel is too large");
  layer->groups = fields->get("groups").whole(fields->of("groups"), 1, kMostAxis);
  require(layer->outputs() % layer->groups == 0,
          fields->of("groups") + " is " + std::to_string(layer->groups) +
              ", which does not divide " + std::to_string(layer->outputs()) + " outputs");
}

void read_codes(Fields* fields, Layer* layer) {
  const JsonRef* levels = fields->find("levels");
  const JsonRef* packing = fields->find("packing");
  require((levels == nullptr) == (packing == nullptr),
          fields->what() + ": codes have levels and a packing, floats have neither");
  if (levels == nullptr) return;
  layer->levels = static_cast<int>(levels->whole(fields->of("levels"), 2, kMostLevels));
  layer->packing = pair_of(fields, "packing", 1, 8);
  const CodeGroup group = code_group(layer->levels);
  require(layer->packing == Pair{1, code_bits(layer->levels)} ||
              layer->packing == Pair{group.size, group.bits},
          fields->of("packing") + " is none that codes of " + std::to_string(layer->levels) +
              " levels have");
}

bool is_side(int64_t n) { return n <= kMostSide && std::has_single_bit(static_cast<uint64_t>(n)); }

void read_layout(Fields* fields, Layer* layer) {
  layer->layout = chosen<Layout>(fields, "layout",
                                 {{"dense", Layout::kDense},
                                  {"bit mask", Layout::kBitMask},
                                  {"block mask", Layout::kBlockMask}});
  layer->channels_last = fields->flag("channels_last");
  const bool has_blocks = layer->layout == Layout::kBlockMask;
  require((fields->find("block") != nullptr) == has_blocks,
          fields->what() + ": a block mask, and no other layout, has a block");
  require(has_blocks || !layer->channels_last,
          fields->what() + ": only a block mask is channels last");
  if (has_blocks) {
    layer->block = pair_of(fields, "block", 1, kMostAxis);
    const int64_t area = layer->is_conv() ? layer->shape[2] * layer->shape[3] : 1;
    require(is_side(layer->block[0]) && (is_side(layer->block[1]) || layer->block[1] == area),
            fields->of("block") + " is none that is stored");
  }
  layer->values = fields->get("values").whole(fields->of("values"), 0, layer->numel());
  require(layer->layout != Layout::kDense || layer->values == layer->numel(),
          fields->of("values") + " is not the number of its weights, but it has no mask");
}

void read_sums(Fields* fields, Layer* layer) {
  layer->sums = chosen<Sums>(
      fields, "sums",
      {{"integer", Sums::kInteger}, {"scaled", Sums::kScaled}, {"float", Sums::kFloat}});
  layer->has_bias = fields->flag("bias");
  layer->has_norm_scale = fields->flag("norm_scale");
  require(layer->levels > 0 || layer->sums == Sums::kFloat,
          fields->what() + ": its weights are floats, but its sums are not");
  require(layer->sums != Sums::kScaled || !layer->is_conv(),
          fields->what() + ": scaled sums are of linear layers");
  require(!layer->has_norm_scale || (layer->sums == Sums::kFloat && layer->is_conv()),
          fields->what() + ": norm_scale is of convolutions of float sums");
}

}  // namespace

int64_t Layer::depth() const {
  int64_t depth = 1;
  for (size_t i = 1; i < shape.size(); ++i) depth *= shape[i];
  return depth;
}

int code_bits(int levels) { return std::bit_width(static_cast<unsigned>(levels - 1)); }

Layer read_layer(std::string_view name, JsonRef entry) {
  Layer layer{};
  layer.name = name;
  layer.stride = layer.dilation = {1, 1};
  layer.groups = 1;
  Fields fields(entry, "layer '" + layer.name + "'");
  require(!name.empty(), fields.what() + " has no name");
  read_shape(&fields, &layer);
  read_geometry(&fields, &layer);
  read_codes(&fields, &layer);
  read_layout(&fields, &layer);
  read_sums(&fields, &layer);
  if (const JsonRef* owner = fields.find("weight_of")) {
    layer.weight_of = owner->text(fields.of("weight_of"));
  }
  fields.finish();
  return layer;
}

}  // namespace micronet::engine
