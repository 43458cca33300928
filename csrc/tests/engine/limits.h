// What an input may take: memory, as the address sanitizer counts it, and time.
#ifndef MICRONET_TESTS_ENGINE_LIMITS_H_
#define MICRONET_TESTS_ENGINE_LIMITS_H_

#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdint>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>

// Of the sanitizers' allocator, whose header GCC does not install.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*taken)(const volatile void*,
                                                                       size_t),
                                                         void (*given_back)(const volatile void*));
extern "C" size_t __sanitizer_get_allocated_size(const volatile void* memory);

// Both sanitizers end a process by a signal. Most of the time goes into their allocator: it keeps
// a short trace of each call, and little of what was freed, which an input does not outlive.
extern "C" const char* __asan_default_options() {
  return "abort_on_error=1:malloc_context_size=3:quarantine_size_mb=8";
}
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }
#endif

namespace micronet::engine {

// The most bytes that were allocated at a time since the last reset, beyond those that were then.
// Always 0 without the sanitizer.
class Memory {
 public:
  static void start() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_install_malloc_and_free_hooks(taken, given_back);
#endif
  }
  static void reset() { now_ = 0, most_ = 0; }
  static int64_t most() { return most_; }

 private:
#ifdef __SANITIZE_ADDRESS__
  static void taken(const volatile void*, size_t bytes) {
    const int64_t now = now_ += static_cast<int64_t>(bytes);
    int64_t most = most_;
    while (now > most && !most_.compare_exchange_weak(most, now)) continue;
  }
  static void given_back(const volatile void* memory) {
    now_ -= static_cast<int64_t>(__sanitizer_get_allocated_size(memory));
  }
#endif

  inline static std::atomic<int64_t> now_{0}, most_{0};
};

// Ends the process where what it does takes more seconds of the processor than are left.
inline void leave_seconds(int seconds) {
  const itimerval left{{0, 0}, {seconds, 0}};
  setitimer(ITIMER_PROF, &left, nullptr);
}

// Calls body() before a sanitizer, a failed check or the time limit ends the process.
inline void at_death(void (*body)()) {
  static void (*last_words)() = nullptr;
  last_words = body;
  for (const int signal : {SIGPROF, SIGABRT}) {
    std::signal(signal, [](int which) {
      last_words();
      std::signal(which, SIG_DFL);
      raise(which);
    });
  }
}

}  // namespace micronet::engine

#endif  // MICRONET_TESTS_ENGINE_LIMITS_H_
