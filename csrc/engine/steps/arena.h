// One piece of memory for all signals: those that are needed at one time lie apart.
#ifndef MICRONET_ENGINE_STEPS_ARENA_H_
#define MICRONET_ENGINE_STEPS_ARENA_H_

#include <cstdint>
#include <memory>
#include <vector>

namespace micronet::engine {

// Bytes on a cache line.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  // Raises std::bad_alloc.
  explicit AlignedBytes(int64_t bytes);

  uint8_t* data() const { return memory_.get(); }
  int64_t size() const { return size_; }

 private:
  struct Free {
    void operator()(uint8_t* memory) const;
  };
  std::unique_ptr<uint8_t[], Free> memory_;
  int64_t size_ = 0;
};

// Memory that steps [first, last] need.
struct Buffer {
  int64_t bytes_per_image;
  int first, last;
};

struct Placement {
  std::vector<int64_t> offsets;  // by buffer
  int64_t bytes = 0;             // of all
};

// The places of buffers for a batch, each in the lowest gap that is free for as long as it lives;
// the largest come first, as they are the hardest to place.
Placement place(const std::vector<Buffer>& buffers, int64_t batch);

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_STEPS_ARENA_H_
