// The threads and blocks of a CUDA grid on the host. Part of cuda_on_host.h.
//
// Threads of a block are fibers of one thread of the host: one runs until it waits for the others,
// then the next. The order in which they run changes from round to round, so that a missing barrier
// shows. Waits that never end, and exchanges in which a lane reads what nobody brought, end
// the program with a message.
#ifndef MICRONET_TESTS_EMULATOR_BLOCK_H_
#define MICRONET_TESTS_EMULATOR_BLOCK_H_

#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#include "tests/emulator/fiber.h"

namespace cuda_on_host {

constexpr unsigned kWarp = 32;

// What goes from thread to thread, thousands of times for each kernel, looks at nothing of a
// kernel's.
#define CUDA_ON_HOST_UNCHECKED __attribute__((no_sanitize("address", "undefined")))

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "cuda_on_host: %s\n", what);
  std::_Exit(2);
}

// Where the blocks of a cooperative grid meet.
class Meeting {
 public:
  explicit Meeting(unsigned blocks) : blocks_(blocks) {}

  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (ended_ > 0) fail("a block ended while another waits for the grid");
    const unsigned round = round_;
    if (++waiting_ == blocks_) {
      waiting_ = 0;
      ++round_;
      all_.notify_all();
    }
    all_.wait(lock, [&] { return round_ != round; });
  }

  void end() {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++ended_;
    if (waiting_ > 0) fail("a block ended while another waits for the grid");
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_;
  unsigned blocks_, waiting_ = 0, ended_ = 0, round_ = 0;
};

// What a lane brings to an exchange.
struct Offer {
  unsigned char bytes[24];
};

// The exchanges of the lanes of one mask in one warp. Two rows of values in turn: no lane can be
// two exchanges ahead of another.
struct Offers {
  Offer values[2][kWarp];
  unsigned arrived = 0;
  uint64_t released = 0;
};

// A block of threads that runs on the calling thread of the host.
class Block {
 public:
  static thread_local Block* current;

  dim3 index, grid, size;

  template <typename Body>
  void run(const dim3& block_index, const dim3& grid_size, const dim3& block_size, Meeting* meeting,
           const Body& body) {
    index = block_index, grid = grid_size, size = block_size;
    meeting_ = meeting;
    body_ = [](const void* context) { (*static_cast<const Body*>(context))(); };
    body_context_ = &body;
    current = this;
    start();
    schedule();
    if (meeting_ != nullptr) meeting_->end();
    current = nullptr;
  }

  const dim3& thread() const { return running_->index; }

  void sync_threads() {
    const uint64_t mine = released_;
    ++arrived_;
    ++progress_;
    release_if_all_arrived();
    while (released_ == mine) leave();
  }

  void sync_grid() {
    if (meeting_ == nullptr) fail("the grid is waited for, but was not launched as cooperative");
    sync_threads();
    if (running_->index.x == 0) meeting_->wait();
    sync_threads();
  }

  // Gives every lane of `mask` what the others brought: seen(lane) for lanes of the mask.
  template <typename T>
  class Exchange {
   public:
    Exchange(Block* block, unsigned mask, T value) : mask_(mask) {
      static_assert(sizeof(T) <= sizeof(Offer), "more bytes than an offer holds are exchanged");
      const unsigned lane = block->lane();
      if (!holds(lane)) fail("a lane is not in its own mask");
      Offers& all = block->offers(mask);
      const uint64_t mine = all.released;
      values_ = all.values[mine % 2];
      std::memcpy(&all.values[mine % 2][lane], &value, sizeof(T));
      ++block->progress_;
      if (++all.arrived == static_cast<unsigned>(__builtin_popcount(mask))) {
        all.arrived = 0;
        ++all.released;
      }
      while (all.released == mine) block->leave();
    }

    bool holds(unsigned lane) const { return lane < kWarp && ((mask_ >> lane) & 1) != 0; }

    // The lanes that brought another value than 0.
    CUDA_ON_HOST_UNCHECKED unsigned set() const {
      unsigned bits = 0;
      for (unsigned lane = 0; lane < kWarp; ++lane) {
        T value;
        __builtin_memcpy(&value, &values_[lane], sizeof(T));
        bits |= (value != 0 ? 1u : 0u) << lane;
      }
      return bits & mask_;
    }

    T seen(unsigned lane) const {
      if (!holds(lane)) fail("a lane outside the mask is read");
      T value;
      std::memcpy(&value, &values_[lane], sizeof(T));
      return value;
    }

   private:
    unsigned mask_;
    const Offer* values_;
  };

  unsigned lane() const { return running_->index.x % kWarp; }
  Copies& copies() { return running_->copies; }

 private:
  Offers& offers(unsigned mask) {
    const unsigned warp = running_->index.x / kWarp;
    return mask == 0xffffffffu ? whole_warps_[warp] : offers_[{warp, mask}];
  }

  void start() {
    if (size.x % kWarp != 0 || size.y != 1 || size.z != 1) fail("a block is not of whole warps");
    if (fibers_.size() > size.x) fibers_.resize(size.x);
    while (fibers_.size() < size.x) fibers_.push_back(std::make_unique<Fiber>(&Block::enter));
    alive_ = size.x;
    arrived_ = 0;
    offers_.clear();
    whole_warps_.assign(size.x / kWarp, {});
    threads_.clear();
    for (unsigned t = 0; t < size.x; ++t) {
      fibers_[t]->index = dim3(t, 0, 0);
      fibers_[t]->is_done = false;
      threads_.push_back(fibers_[t].get());
    }
  }

  // Rounds over all threads until all are done, each from another thread on.
  CUDA_ON_HOST_UNCHECKED void schedule() {
    const size_t count = threads_.size();
    Fiber* const* threads = threads_.data();
    for (unsigned done = 0; done < count;) {
      order_ = order_ * 1664525u + 1013904223u;
      const uint64_t before = progress_;
      const size_t step = order_ & 1 ? 1 : count - 1;
      for (size_t t = 0, next = (order_ >> 8) % count; t < count; ++t, next += step) {
        if (next >= count) next -= count;
        Fiber& f = *threads[next];
        if (f.is_done) continue;
        running_ = &f;
        resume(f);
        done += f.is_done ? 1 : 0;
      }
      if (progress_ == before) fail("threads wait for others that never come");
    }
  }

  static void enter() {
    Block& block = *current;
    block.arrive(nullptr);
    for (;;) {
      block.body_(block.body_context_);
      block.end_copies();
      block.running_->is_done = true;
      --block.alive_;
      ++block.progress_;
      block.release_if_all_arrived();
      block.leave();
    }
  }

  void end_copies() {
    if (!copies().all_arrived()) fail("a thread ends before its copies have arrived");
    copies().clear();
  }

  // A thread that has ended is waited for no longer.
  void release_if_all_arrived() {
    if (arrived_ < alive_) return;
    arrived_ = 0;
    ++released_;
  }

  CUDA_ON_HOST_UNCHECKED void resume(Fiber& f) {
    void* fake = nullptr;
    depart(&fake, f.stack.get(), kStackBytes);
    if (f.is_started) {
      go(scheduler_, f.place);
    } else {
      f.is_started = true;
      go(scheduler_, f.first);
    }
    arrive(fake, nullptr, nullptr);
  }

  CUDA_ON_HOST_UNCHECKED void leave() {
    Fiber& me = *running_;
    depart(&me.fake_stack, scheduler_stack_, scheduler_stack_bytes_);
    go(me.place, scheduler_);
    arrive(me.fake_stack);
  }

  CUDA_ON_HOST_UNCHECKED void arrive(void* fake) {
    arrive(fake, &scheduler_stack_, &scheduler_stack_bytes_);
  }

  // The sanitizer has to know which stack is in use.
#ifdef __SANITIZE_ADDRESS__
  static void depart(void** fake, const void* stack, size_t bytes) {
    __sanitizer_start_switch_fiber(fake, stack, bytes);
  }
  static void arrive(void* fake, const void** from, size_t* bytes) {
    __sanitizer_finish_switch_fiber(fake, from, bytes);
  }
#else
  static void depart(void**, const void*, size_t) {}
  static void arrive(void*, const void**, size_t*) {}
#endif

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> threads_;                             // the same
  std::vector<Offers> whole_warps_;                         // of each warp, all lanes
  std::map<std::pair<unsigned, unsigned>, Offers> offers_;  // of each warp and other mask
  Fiber* running_ = nullptr;
  Place scheduler_;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
  Meeting* meeting_ = nullptr;
  void (*body_)(const void*) = nullptr;
  const void* body_context_ = nullptr;
  unsigned alive_ = 0, arrived_ = 0;      // threads, and those of them at the barrier
  unsigned order_ = 1;                    // of the threads in a round
  uint64_t released_ = 0, progress_ = 0;  // barriers passed, and steps of any kind
};

inline thread_local Block* Block::current = nullptr;

// A device runs one grid after the other, whichever threads of the host launch them.
inline std::mutex launching;

// Blocks whose stacks serve again. The first runs what is launched from the host's threads.
inline Block& pooled_block(size_t number) {
  static std::vector<std::unique_ptr<Block>> pool;
  while (pool.size() <= number) pool.push_back(std::make_unique<Block>());
  return *pool[number];
}

template <typename Body>
void run_grid(const dim3& grid, const dim3& block, const Body& body) {
  const std::lock_guard<std::mutex> lock(launching);
  for (unsigned b = 0; b < grid.x; ++b) {
    pooled_block(0).run(dim3(b, 0, 0), grid, block, nullptr, body);
  }
}

template <typename Body>
void run_cooperative_grid(const dim3& grid, const dim3& block, const Body& body) {
  const std::lock_guard<std::mutex> lock(launching);
  Meeting meeting(grid.x);
  std::vector<std::thread> threads;
  for (unsigned b = 0; b < grid.x; ++b) {
    Block& runner = pooled_block(b);
    threads.emplace_back([&, b] { runner.run(dim3(b, 0, 0), grid, block, &meeting, body); });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace cuda_on_host

#endif  // MICRONET_TESTS_EMULATOR_BLOCK_H_
