// A few threads that wait for loops, or the caller's.
#ifndef MICRONET_ENGINE_RUN_POOL_H_
#define MICRONET_ENGINE_RUN_POOL_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>

#include "include/core.h"

namespace micronet::engine {

// The caller's way to share a loop, see micronet_parallel_for.
struct CallersLoops {
  void (*share)(void* pool, int64_t count, int64_t grain, void (*task)(void*, int64_t, int64_t),
                void* context) = nullptr;
  void* pool = nullptr;
};

class Pool {
 public:
  // The caller's thread is one of them.
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  void set_loops(CallersLoops loops) { callers_ = loops; }
  bool is_lent() const { return callers_.share != nullptr; }

  // While one lives, loops that this thread starts by `loops` run on a pool, or by it alone where
  // that is null.
  class Use {
   public:
    explicit Use(Pool* pool);
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    Pool* before_;
  };
  static const ParallelFor loops;

 private:
  using Body = void (*)(void*, int64_t, int64_t);

  class Workers;

  static void run(int64_t count, int64_t grain, Body body, void* context);
  void lend(int64_t count, int64_t grain, Body body, void* context) const;
  void share(int64_t count, int64_t chunk, Body body, void* context);

  int threads_;
  CallersLoops callers_;
  std::unique_ptr<Workers> workers_;  // all but the caller's
  pid_t process_;                     // in which they live
};

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_RUN_POOL_H_
