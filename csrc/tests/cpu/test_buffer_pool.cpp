// The pool of output buffers: what comes back, what is kept, what is freed.

#include "cpu/buffer_pool.h"
#include "tests/check.h"

namespace micronet {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

void buffers_are_used_again() {
  BufferPool pool(64 * kMiB);
  void* first = pool.take(5 * kMiB);
  CHECK(reinterpret_cast<uintptr_t>(first) % 64 == 0 && pool.kept() == 0);
  std::memset(first, 1, 5 * kMiB);
  pool.give(first, 5 * kMiB);
  CHECK(pool.kept() >= 5 * kMiB);
  void* second = pool.take(5 * kMiB);
  CHECK(second == first && pool.kept() == 0);
  void* third = pool.take(5 * kMiB);
  CHECK(third != second);
  pool.give(second, 5 * kMiB);
  pool.give(third, 5 * kMiB);
  pool.set_limit(0);
  CHECK(pool.kept() == 0);
}

void no_more_is_kept_than_the_limit() {
  BufferPool pool(8 * kMiB);
  void* buffers[] = {pool.take(3 * kMiB), pool.take(4 * kMiB), pool.take(6 * kMiB),
                     pool.take(9 * kMiB)};
  const size_t sizes[] = {3 * kMiB, 4 * kMiB, 6 * kMiB, 9 * kMiB};
  for (int i = 0; i < 4; ++i) {
    pool.give(buffers[i], sizes[i]);
    CHECK(pool.kept() <= 8 * kMiB);
  }
  CHECK(pool.kept() > 0);
  pool.set_limit(0);
}

}  // namespace

void run_tests(std::mt19937&) {
  buffers_are_used_again();
  no_more_is_kept_than_the_limit();
}

}  // namespace micronet
