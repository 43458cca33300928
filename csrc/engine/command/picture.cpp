// Images as a network takes them.

#include "engine/command/picture.h"

#include <cctype>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string_view>

namespace {

[[noreturn]] void fail(const std::string& path, const std::string& why) {
  throw std::runtime_error(path + ": " + why);
}

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(path, "cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

bool ends_with(const std::string& path, std::string_view end) {
  return path.size() >= end.size() && path.compare(path.size() - end.size(), end.size(), end) == 0;
}

// The pixels behind the header of a portable pixel map, whose sizes have to be the network's.
std::string_view pixels_of(const std::string& path, std::string_view content,
                           const Wanted& wanted) {
  size_t at = 2;
  const auto number = [&] {
    while (at < content.size() &&
           (std::isspace(static_cast<unsigned char>(content[at])) || content[at] == '#')) {
      at = content[at] == '#' ? content.find('\n', at) : at + 1;
      if (at == content.npos) at = content.size();
    }
    int64_t value = 0;
    const size_t first = at;
    for (; at < content.size() && std::isdigit(static_cast<unsigned char>(content[at])); ++at) {
      value = value * 10 + (content[at] - '0');
      if (value > 65535) fail(path, "a number of its header is too large");
    }
    if (at == first) fail(path, "its header lacks a number");
    return value;
  };
  const std::string_view magic = content.substr(0, 2);
  if (magic != (wanted.channels == 3 ? "P6" : "P5")) {
    fail(path, "must begin with P6 for three channels, or P5 for one");
  }
  const int64_t width = number(), height = number(), white = number();
  if (width != wanted.width || height != wanted.height) {
    fail(path, "is " + std::to_string(width) + " x " + std::to_string(height) +
                   ", but the network takes " + std::to_string(wanted.width) + " x " +
                   std::to_string(wanted.height));
  }
  if (white != 255) fail(path, "has " + std::to_string(white) + " as white, but must have 255");
  return content.substr(at + 1 < content.size() ? at + 1 : content.size());
}

std::vector<float> normalized(const std::string& path, std::string_view pixels,
                              const Wanted& wanted) {
  const int64_t area = wanted.height * wanted.width, count = area * wanted.channels;
  if (static_cast<int64_t>(pixels.size()) != count) {
    fail(path, "has " + std::to_string(pixels.size()) + " bytes of pixels, but the network takes " +
                   std::to_string(count));
  }
  if (!wanted.has_normalization) {
    fail(path, "the network's file does not say how pixels are normalized: give .f32 files");
  }
  std::vector<float> image(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const size_t channel = static_cast<size_t>(i % wanted.channels);
    const float pixel =
        static_cast<float>(static_cast<unsigned char>(pixels[static_cast<size_t>(i)]));
    image[channel * static_cast<size_t>(area) + static_cast<size_t>(i / wanted.channels)] =
        (pixel / 255.0f - wanted.mean[channel]) / wanted.std[channel];
  }
  return image;
}

std::vector<float> floats(const std::string& path, std::string_view content, const Wanted& wanted) {
  const int64_t count = wanted.channels * wanted.height * wanted.width;
  if (static_cast<int64_t>(content.size()) != 4 * count) {
    fail(path, "has " + std::to_string(content.size()) + " bytes, but the network takes " +
                   std::to_string(4 * count));
  }
  std::vector<float> image(static_cast<size_t>(count));
  std::memcpy(image.data(), content.data(), content.size());
  return image;
}

}  // namespace

std::vector<float> read_picture(const std::string& path, const Wanted& wanted) {
  const std::string content = content_of(path);
  if (ends_with(path, ".f32")) return floats(path, content, wanted);
  if (ends_with(path, ".u8")) return normalized(path, content, wanted);
  if (ends_with(path, ".ppm") || ends_with(path, ".pgm")) {
    return normalized(path, pixels_of(path, content, wanted), wanted);
  }
  fail(path, "is none of .ppm, .pgm, .u8 and .f32");
}
