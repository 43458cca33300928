// The container: sizes and offsets that fit each other and the file.

#include "engine/format/container.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <vector>

#include "engine/format/error.h"
#include "engine/format/json.h"

namespace micronet::engine {
namespace {

constexpr uint64_t kMostHeader = 100'000'000;  // as the reference library allows
constexpr int64_t kMost = std::numeric_limits<int64_t>::max();

struct Place {
  std::string name;
  uint64_t begin, end;
  bool is_float;
};

Place place_of(std::string_view name, JsonRef entry) {
  Fields fields(entry, "tensor '" + std::string(name) + "'");
  const std::string_view type = fields.get("dtype").text(fields.of("dtype"));
  const std::vector<int64_t> shape = fields.wholes("shape", 0, kMost);
  const std::vector<int64_t> offsets = fields.wholes("data_offsets", 0, kMost);
  fields.finish();
  require(type == "F32" || type == "U8",
          fields.what() + " has type '" + std::string(type) + "', but must have F32 or U8");
  require(shape.size() == 1, fields.what() + " must have one dimension");
  require(offsets.size() == 2 && offsets[0] <= offsets[1],
          fields.what() + " has no offsets of its first byte and of the one behind it");
  const int64_t width = type == "F32" ? 4 : 1, bytes = offsets[1] - offsets[0];
  require(bytes % width == 0 && bytes / width == shape[0],
          fields.what() + " has a shape of other bytes than its offsets");
  return {std::string(name), static_cast<uint64_t>(offsets[0]), static_cast<uint64_t>(offsets[1]),
          width == 4};
}

uint64_t little_endian(const uint8_t* bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | bytes[i];
  return value;
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require(file >= 0, std::string("cannot be read: ") + std::strerror(errno));
  struct stat facts;
  const bool is_file = fstat(file, &facts) == 0 && S_ISREG(facts.st_mode);
  void* memory = nullptr;
  if (is_file && facts.st_size > 0) {
    memory = mmap(nullptr, static_cast<size_t>(facts.st_size), PROT_READ, MAP_PRIVATE, file, 0);
  }
  close(file);
  require(is_file, "is no file");
  require(memory != MAP_FAILED, "cannot be mapped into memory");
  if (memory == nullptr) return;
  bytes_ = {static_cast<const uint8_t*>(memory), static_cast<size_t>(facts.st_size)};
}

MappedFile::~MappedFile() {
  if (bytes_.empty()) return;
  munmap(const_cast<uint8_t*>(bytes_.data()), bytes_.size());
}

Container::Container(std::span<const uint8_t> file) : file_bytes(file.size()) {
  require(file.size() >= 8, std::to_string(file.size()) + " bytes are no packed network");
  const uint64_t length = little_endian(file.data());
  require(length <= kMostHeader && length <= file.size() - 8,
          "a header of " + std::to_string(length) + " bytes does not fit the file");
  data = file.subspan(8 + length);
  const Json header({reinterpret_cast<const char*>(file.data()) + 8, length}, "the header");
  std::vector<Place> places;
  bool is_packed = false;
  for (const auto& [name, entry] : header.root().members("the header")) {
    if (name != "__metadata__") {
      places.push_back(place_of(name, entry));
      continue;
    }
    for (const auto& [key, text] : entry.members("__metadata__")) {
      if (key != "micronet_packed") continue;
      document = text.text("micronet_packed");
      is_packed = true;
    }
  }
  require(is_packed, "is no packed network: its metadata have no key 'micronet_packed'");
  std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  uint64_t end = 0;
  for (const Place& place : places) {
    require(place.begin == end, "tensor '" + place.name + "' begins at byte " +
                                    std::to_string(place.begin) + ", where byte " +
                                    std::to_string(end) + " comes next");
    require(place.end <= data.size(), "tensor '" + place.name + "' ends behind the file");
    end = place.end;
    tensors[place.name] = {place.is_float, data.subspan(place.begin, place.end - place.begin)};
  }
  require(end == data.size(), "its tensors take " + std::to_string(end) + " bytes, but " +
                                  std::to_string(data.size()) + " are there");
}

}  // namespace micronet::engine
