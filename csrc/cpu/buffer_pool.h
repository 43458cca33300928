// Large output buffers, kept when they are given back and used again.
//
// glibc maps every large buffer anew and unmaps it when it is freed, so that an operator pays a
// page fault for each 4 KiB that it writes: for 16 Mi floats three times the time of the kernel
// itself.
#ifndef MICRONET_CPU_BUFFER_POOL_H_
#define MICRONET_CPU_BUFFER_POOL_H_

#include <cstddef>
#include <map>
#include <mutex>
#include <vector>

namespace micronet {

class BufferPool {
 public:
  // Smaller buffers come out of the heap without a fault.
  static constexpr size_t kSmallest = size_t{1} << 20;

  // The pool of the process. It is never destroyed, since buffers may outlive everything.
  static BufferPool& shared();

  explicit BufferPool(size_t limit) : limit_(limit) {}

  // A buffer of at least `bytes`, aligned to 64 bytes; null where there is no memory.
  void* take(size_t bytes);

  // Returns what take(bytes) gave, to be kept, or freed where more than the limit would be kept.
  void give(void* buffer, size_t bytes);

  // Bytes that are kept at the moment.
  size_t kept() const;

  // Keeps no more than this from now on.
  void set_limit(size_t bytes);

 private:
  void trim(size_t most);

  mutable std::mutex mutex_;
  std::map<size_t, std::vector<void*>> free_;  // by rounded size
  size_t kept_ = 0, limit_;
};

}  // namespace micronet

#endif  // MICRONET_CPU_BUFFER_POOL_H_
