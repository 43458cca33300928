// The normalization of images.

#include "engine/format/pixels.h"

#include "engine/format/error.h"

namespace micronet::engine {
namespace {

bool gives_all_back(const GreyScale& scale) {
  for (int pixel = 0; pixel < 256; ++pixel) {
    const float grey = scale.grey(scale.normalized(static_cast<uint8_t>(pixel)));
    if (!std::isfinite(grey) || GreyScale::code(grey) != pixel) return false;
  }
  return scale.deviation > 0.0f;
}

}  // namespace

std::vector<GreyScale> grey_scales(const std::vector<float>& mean, const std::vector<float>& std) {
  std::vector<GreyScale> scales;
  for (size_t c = 0; c < mean.size(); ++c) scales.emplace_back(mean[c], std[c]);
  return scales;
}

void check_pixels(const Document& document) {
  for (size_t i = 0; i < document.nodes.size(); ++i) {
    const Node& node = document.nodes[i];
    if (node.kind != Kind::kPixels) continue;
    const std::string what = "nodes[" + std::to_string(i) + "] (pixels)";
    require(!node.mean.empty() && node.mean.size() == node.std.size(),
            what + " has " + std::to_string(node.mean.size()) + " means and " +
                std::to_string(node.std.size()) + " deviations");
    require(node.mean == document.mean && node.std == document.std,
            what + " has another mean or std than about");
    for (const GreyScale& scale : grey_scales(node.mean, node.std)) {
      require(gives_all_back(scale),
              what + ": float32 does not tell 256 grey values apart under its mean and std");
    }
  }
}

}  // namespace micronet::engine
