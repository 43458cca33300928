// The asynchronous copies of a thread. Part of cuda_on_host.h.
#ifndef MICRONET_TESTS_EMULATOR_COPIES_H_
#define MICRONET_TESTS_EMULATOR_COPIES_H_

#include <cstddef>
#include <cstring>
#include <deque>
#include <vector>

namespace cuda_on_host {

// Half of the copies are made at once, the others when they are waited for: a missing wait shows as
// well as memory that is overwritten while it is still read.
class Copies {
 public:
  void start(void* to, const void* from, size_t bytes) {
    random_ = random_ * 1664525u + 1013904223u;
    if (random_ >> 31 != 0) {
      std::memcpy(to, from, bytes);
    } else {
      started_.push_back({to, from, bytes});
    }
  }

  void commit() {
    groups_.push_back(started_);
    started_.clear();
  }

  void wait(size_t pending) {
    while (groups_.size() > pending) {
      for (const Copy& copy : groups_.front()) std::memcpy(copy.to, copy.from, copy.bytes);
      groups_.pop_front();
    }
  }

  // Whether none is on its way.
  bool all_arrived() const {
    for (const auto& group : groups_) {
      if (!group.empty()) return false;
    }
    return started_.empty();
  }

  void clear() { groups_.clear(); }

 private:
  struct Copy {
    void* to;
    const void* from;
    size_t bytes;
  };

  std::vector<Copy> started_;
  std::deque<std::vector<Copy>> groups_;
  unsigned random_ = 1;
};

}  // namespace cuda_on_host

#endif  // MICRONET_TESTS_EMULATOR_COPIES_H_
