// A thread of a CUDA block as a fiber of a thread of the host. Part of cuda_on_host.h.
#ifndef MICRONET_TESTS_EMULATOR_FIBER_H_
#define MICRONET_TESTS_EMULATOR_FIBER_H_

#include <ucontext.h>

#include <cstddef>
#include <memory>

#include "tests/emulator/copies.h"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace cuda_on_host {

constexpr size_t kStackBytes = 32 * 1024;

// A place to go on from. Unlike contexts, jumps cost no system call; the sanitizer is told of them
// elsewhere, and would else take each for the end of a stack.
struct Place {
  void* jump[5];  // what __builtin_setjmp fills
};

// Apart from where the place is noted: an optimizer that sees both takes the place for unreachable.
[[noreturn]] __attribute__((noinline, no_sanitize("address"))) inline void jump(Place& to) {
  __builtin_longjmp(to.jump, 1);
}

// What others have written meanwhile is read again.
inline void others_have_run() { asm volatile("" ::: "memory"); }

__attribute__((noinline, no_sanitize("address"))) inline void go(Place& from, Place& to) {
  if (__builtin_setjmp(from.jump) == 0) jump(to);
  others_have_run();
}

__attribute__((noinline, no_sanitize("address"))) inline void go(Place& from,
                                                                 const ucontext_t& to) {
  if (__builtin_setjmp(from.jump) == 0) setcontext(&to);
  others_have_run();
}

// A thread of a block, and of each block that runs in its place later on.
struct Fiber {
  ucontext_t first;
  Place place;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  void* fake_stack = nullptr;
  dim3 index{0, 0, 0};
  Copies copies;
  bool is_started = false, is_done = false;

  explicit Fiber(void (*body)()) {
    getcontext(&first);
    first.uc_stack.ss_sp = stack.get();
    first.uc_stack.ss_size = kStackBytes;
    first.uc_link = nullptr;
    makecontext(&first, body, 0);
  }
};

}  // namespace cuda_on_host

#endif  // MICRONET_TESTS_EMULATOR_FIBER_H_
