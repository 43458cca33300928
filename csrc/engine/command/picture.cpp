// Images as a network takes them.

#include "engine/command/picture.h"

#include <cctype>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string_view>

namespace {

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail_of(path, "cannot be read");
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
      if (value > 65535) fail_of(path, "a number of its header is too large");
    }
    if (at == first) fail_of(path, "its header lacks a number");
    return value;
  };
  const std::string_view magic = content.substr(0, 2);
  if (magic != (wanted.channels == 3 ? "P6" : "P5")) {
    fail_of(path, "must begin with P6 for three channels, or P5 for one");
  }
  const int64_t width = number(), height = number(), white = number();
  check_size(path, wanted, width, height);
  if (white != 255) fail_of(path, "has " + std::to_string(white) + " as white, but must have 255");
  return content.substr(at + 1 < content.size() ? at + 1 : content.size());
}

Picture of_pixels(const std::string& path, std::string_view pixels, const Wanted& wanted) {
  if (static_cast<int64_t>(pixels.size()) != wanted.numel()) {
    fail_of(path, "has " + std::to_string(pixels.size()) +
                      " bytes of pixels, but the network takes " + std::to_string(wanted.numel()));
  }
  return {{pixels.begin(), pixels.end()}, {}};
}

Picture of_floats(const std::string& path, std::string_view content, const Wanted& wanted) {
  if (static_cast<int64_t>(content.size()) != 4 * wanted.numel()) {
    fail_of(path, "has " + std::to_string(content.size()) + " bytes, but the network takes " +
                      std::to_string(4 * wanted.numel()));
  }
  Picture picture{{}, std::vector<float>(static_cast<size_t>(wanted.numel()))};
  std::memcpy(picture.values.data(), content.data(), content.size());
  return picture;
}

}  // namespace

void fail_of(const std::string& path, const std::string& why) {
  throw std::runtime_error(path + ": " + why);
}

void check_size(const std::string& path, const Wanted& wanted, int64_t width, int64_t height) {
  if (width == wanted.width && height == wanted.height) return;
  fail_of(path, "is " + std::to_string(width) + " x " + std::to_string(height) +
                    ", but the network takes " + std::to_string(wanted.width) + " x " +
                    std::to_string(wanted.height));
}

Picture read_picture(const std::string& path, const Wanted& wanted) {
  const std::string content = content_of(path);
  if (ends_with(path, ".f32")) return of_floats(path, content, wanted);
  if (ends_with(path, ".u8")) return of_pixels(path, content, wanted);
  if (ends_with(path, ".ppm") || ends_with(path, ".pgm")) {
    return of_pixels(path, pixels_of(path, content, wanted), wanted);
  }
  if (ends_with(path, ".jpg") || ends_with(path, ".jpeg")) {
    return decode_jpeg(path, content, wanted);
  }
  fail_of(path, "is none of .ppm, .pgm, .u8, .jpg, .jpeg and .f32");
}
