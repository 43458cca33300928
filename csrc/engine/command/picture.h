// Images as a network takes them: files of bytes, or of floats.
#ifndef MICRONET_ENGINE_COMMAND_PICTURE_H_
#define MICRONET_ENGINE_COMMAND_PICTURE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// The images that a network takes.
struct Wanted {
  int64_t channels, height, width;

  int64_t numel() const { return channels * height * width; }
};

// One of the two, the other is empty.
struct Picture {
  std::vector<uint8_t> pixels;  // [H, W, C]
  std::vector<float> values;    // [C, H, W], normalized
};

// Reads a .ppm, .pgm, .u8, .jpg, .jpeg or .f32 file. Raises std::runtime_error, whose text is one
// sentence, where it is none, or of another size.
Picture read_picture(const std::string& path, const Wanted& wanted);

// Decodes a JPEG file as Pillow does.
Picture decode_jpeg(const std::string& path, std::string_view content, const Wanted& wanted);

[[noreturn]] void fail_of(const std::string& path, const std::string& why);
void check_size(const std::string& path, const Wanted& wanted, int64_t width, int64_t height);

#endif  // MICRONET_ENGINE_COMMAND_PICTURE_H_
