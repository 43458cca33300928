// The container: a safetensors file with one metadata key, mapped into memory.
#ifndef MICRONET_ENGINE_FORMAT_CONTAINER_H_
#define MICRONET_ENGINE_FORMAT_CONTAINER_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

namespace micronet::engine {

// A whole file, read only.
class MappedFile {
 public:
  // Raises Refused where there is no such file.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const uint8_t> bytes() const { return bytes_; }

 private:
  std::span<const uint8_t> bytes_;
};

// The bytes of a tensor, of float32 or of uint8.
struct StoredTensor {
  bool is_float;
  std::span<const uint8_t> bytes;
};

// What a file holds, its sizes, offsets and types looked at. Tensors are views of the file.
struct Container {
  std::string document;  // JSON, not read yet
  std::map<std::string, StoredTensor, std::less<>> tensors;
  std::span<const uint8_t> data;
  size_t file_bytes;

  // Raises Refused.
  explicit Container(std::span<const uint8_t> file);
};

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_FORMAT_CONTAINER_H_
