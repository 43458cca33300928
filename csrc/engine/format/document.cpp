// The document: its keys, and how layers fit each other and the file.

#include "engine/format/document.h"

#include "engine/format/error.h"
#include "engine/format/json.h"
#include "engine/format/pixels.h"

namespace micronet::engine {
namespace {

constexpr int64_t kMostNodes = 16384;

void read_about(JsonRef entry, Document* document) {
  Fields fields(entry, "about");
  if (const JsonRef* arch = fields.find("arch")) document->arch = arch->text(fields.of("arch"));
  if (const JsonRef* classes = fields.find("classes")) {
    for (const JsonRef& name : classes->items(fields.of("classes"))) {
      document->classes.emplace_back(name.text(fields.of("classes")));
    }
  }
  for (const auto& [key, values] : {std::pair{"mean", &document->mean}, {"std", &document->std}}) {
    const JsonRef* numbers = fields.find(key);
    if (numbers != nullptr) *values = floats(*numbers, fields.of(key));
  }
  fields.finish();
}

void check_owner(const Layer& layer, const Document& document) {
  if (layer.weight_of.empty()) return;
  const std::string what = "layer '" + layer.name + "'";
  const auto found = document.layers.find(layer.weight_of);
  require(found != document.layers.end() && found->second.weight_of.empty(),
          what + ": its weights are those of '" + layer.weight_of + "', which stores none");
  const Layer& owner = found->second;
  const bool same = owner.shape == layer.shape && owner.levels == layer.levels &&
                    owner.layout == layer.layout && owner.values == layer.values &&
                    owner.packing == layer.packing && owner.block == layer.block &&
                    owner.channels_last == layer.channels_last;
  require(same, what + " stores its weights otherwise than '" + layer.weight_of + "'");
}

void read_layers(JsonRef entry, size_t file_bytes, Document* document) {
  // Nothing is made of a weight before all are known to be no more than the file can hold.
  const int64_t most = most_weights(file_bytes);
  int64_t total = 0;
  for (const auto& [name, layer] : entry.members("layers")) {
    const Layer& read = document->layers[std::string(name)] = read_layer(name, layer);
    total += read.numel();
    require(total <= most,
            std::to_string(total) + " weights are more than a file of its size holds");
  }
  for (const auto& [name, layer] : document->layers) check_owner(layer, *document);
}

}  // namespace

bool Document::has_normalization() const {
  const size_t channels = static_cast<size_t>(input[0]);
  return mean.size() == channels && std.size() == channels;
}

Document::Document(std::string_view text, size_t file_bytes) {
  const Json json(text, "the document");
  Fields fields(json.root(), "the document");
  const std::string_view format = fields.get("format").text("format");
  require(format == "micronet-packed",
          "format is '" + std::string(format) + "', but must be 'micronet-packed'");
  const int64_t version = fields.get("version").whole("version", 0, kMostAxis);
  require(version == 1, "has version " + std::to_string(version) + ", this program reads 1");
  input = fields.wholes("input", 1, kMostGeometry);
  require(input.size() == 3, "input must be three sizes");
  read_layers(fields.get("layers"), file_bytes, this);
  const std::vector<JsonRef> entries = fields.get("nodes").items("nodes");
  require(!entries.empty() && static_cast<int64_t>(entries.size()) <= kMostNodes,
          std::to_string(entries.size()) + " nodes are none, or more than " +
              std::to_string(kMostNodes));
  for (const JsonRef& entry : entries) {
    nodes.push_back(read_node(static_cast<int>(nodes.size()), entry));
  }
  output = static_cast<int>(
      fields.get("output").whole("output", 0, static_cast<int64_t>(nodes.size()) - 1));
  read_about(fields.get("about"), this);
  check_pixels(*this);
  checksum = fields.get("sha256").text("sha256");
  fields.get("quantization_config").members("quantization_config");  // derived from the rest
  fields.finish();
}

}  // namespace micronet::engine
