// Large output buffers, kept when they are given back and used again.

#include "cpu/buffer_pool.h"

#include <cstdlib>
#include <iterator>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace micronet {
namespace {

// A huge page. Buffers of some of them ask the kernel to back them so: one fault for 512.
constexpr size_t kHuge = size_t{2} << 20;

// Rounded up to an eighth of the power of two below, so that nearly equal shapes share buffers.
size_t rounded(size_t bytes) {
  size_t step = size_t{1} << 16;
  while (step * 16 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

void* allocate(size_t bytes) {
  const bool huge = bytes >= 2 * kHuge;
  const size_t unit = huge ? kHuge : 64;
  void* buffer = std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit);
#ifdef __linux__
  // Advice: where it is refused, ordinary pages serve.
  if (huge && buffer != nullptr) (void)madvise(buffer, bytes / kHuge * kHuge, MADV_HUGEPAGE);
#endif
  return buffer;
}

// A quarter of the machine's memory: the outputs of a training step of any network that fits.
size_t default_limit() {
#ifdef __linux__
  const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
  if (pages > 0 && size > 0) return static_cast<size_t>(pages) / 4 * static_cast<size_t>(size);
#endif
  return size_t{1} << 30;
}

}  // namespace

BufferPool& BufferPool::shared() {
  static BufferPool* pool = new BufferPool(default_limit());
  return *pool;
}

void* BufferPool::take(size_t bytes) {
  const size_t size = rounded(bytes);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = free_.find(size);
    if (found != free_.end() && !found->second.empty()) {
      void* buffer = found->second.back();
      found->second.pop_back();
      kept_ -= size;
      return buffer;
    }
  }
  void* buffer = allocate(size);
  if (buffer != nullptr) return buffer;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    trim(0);
  }
  return allocate(size);
}

void BufferPool::give(void* buffer, size_t bytes) {
  const size_t size = rounded(bytes);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (size > limit_) {
    std::free(buffer);
    return;
  }
  trim(limit_ - size);
  free_[size].push_back(buffer);
  kept_ += size;
}

size_t BufferPool::kept() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return kept_;
}

void BufferPool::set_limit(size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  limit_ = bytes;
  trim(bytes);
}

// Frees the largest buffers first: they are the fewest to fault in again by the byte.
void BufferPool::trim(size_t most) {
  while (kept_ > most) {
    auto last = std::prev(free_.end());
    if (last->second.empty()) {
      free_.erase(last);
      continue;
    }
    std::free(last->second.back());
    last->second.pop_back();
    kept_ -= last->first;
  }
}

}  // namespace micronet
