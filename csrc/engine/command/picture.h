// Images as a network takes them.
#ifndef MICRONET_ENGINE_COMMAND_PICTURE_H_
#define MICRONET_ENGINE_COMMAND_PICTURE_H_

#include <cstdint>
#include <string>
#include <vector>

// What a network wants: sizes of an image, and what pixels in [0, 1] are normalized by.
struct Wanted {
  int64_t channels, height, width;
  bool has_normalization;
  std::vector<float> mean, std;
};

// The image [C, H, W] of a file: `.ppm` and `.pgm` with 255 as white, `.u8` with the bytes
// [H, W, C] alone, `.f32` with the network's own floats [C, H, W], little-endian. Raises
// std::runtime_error with one sentence.
std::vector<float> read_picture(const std::string& path, const Wanted& wanted);

#endif  // MICRONET_ENGINE_COMMAND_PICTURE_H_
