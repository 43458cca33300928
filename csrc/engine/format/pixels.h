// How bytes become normalized images, and these grey values again. See docs/exactness.md.
#ifndef MICRONET_ENGINE_FORMAT_PIXELS_H_
#define MICRONET_ENGINE_FORMAT_PIXELS_H_

#include <cmath>
#include <vector>

#include "engine/format/document.h"
#include "include/quant.h"

namespace micronet::engine {

// Of one channel, in grey values: float32, rounded after each operation.
struct GreyScale {
  float mean, deviation;

  // Of pixels in [0, 1].
  GreyScale(float mean_of_one, float std_of_one)
      : mean(255.0f * mean_of_one), deviation(255.0f * std_of_one) {}

  float normalized(uint8_t pixel) const { return (static_cast<float>(pixel) - mean) / deviation; }

  // A normalized value in grey values, rounded to none yet; it may be not finite.
  float grey(float x) const { return x * deviation + mean; }

  // Both ends are whole numbers: what is held to them first is rounded to the same.
  static uint8_t code(float grey) {
    return static_cast<uint8_t>(static_cast<int>(round_small(clamp_keep_nan(grey, 0.0f, 255.0f))));
  }
};

// By channel.
std::vector<GreyScale> grey_scales(const std::vector<float>& mean, const std::vector<float>& std);

// Holds nodes of grey values to the normalization that the document tells. Raises Refused where two
// differ, or a normalization does not give all 256 grey values back.
void check_pixels(const Document& document);

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_FORMAT_PIXELS_H_
