// A few threads that wait for loops.

#include "engine/run/pool.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/format/error.h"

namespace micronet::engine {
namespace {

constexpr int64_t kChunksPerThread = 4;  // so that a late thread holds the others up less

thread_local Pool* current = nullptr;

// A loop that the caller's threads run.
struct Lent {
  void (*body)(void*, int64_t, int64_t);
  void* context;
  int64_t count;
  std::atomic<int64_t> done{0};
  std::mutex mutex;
  std::exception_ptr failure;

  Lent(void (*of)(void*, int64_t, int64_t), void* with, int64_t parts)
      : body(of), context(with), count(parts) {}

  static void call(void* self, int64_t begin, int64_t end) {
    static_cast<Lent*>(self)->run(begin, end);
  }

  void run(int64_t begin, int64_t end) noexcept {
    // A loop within a body is run by its own thread.
    const Pool::Use alone(nullptr);
    try {
      require(0 <= begin && begin <= end && end <= count,
              "the caller's parallel loop asks for parts that there are not");
      if (begin < end) body(context, begin, end);
      done += end - begin;
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  }
};

}  // namespace

const ParallelFor Pool::loops{&Pool::run};

Pool::Use::Use(Pool* pool) : before_(current) { current = pool; }
Pool::Use::~Use() { current = before_; }

class Pool::Workers {
 public:
  explicit Workers(int count) {
    try {
      for (int i = 0; i < count; ++i) threads_.emplace_back([this] { work(); });
    } catch (...) {
      stop();
      throw;
    }
  }
  ~Workers() { stop(); }

  // The caller takes part.
  void share(int64_t count, int64_t chunk, Body body, void* context);

 private:
  void stop();
  void work();
  void take_chunks();

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable started_, finished_;
  bool stops_ = false;
  int64_t loop_ = 0;  // counts loops
  int busy_ = 0;      // threads that are in one
  Body body_ = nullptr;
  void* context_ = nullptr;
  int64_t count_ = 0, chunk_ = 1;
  std::atomic<int64_t> next_{0};
  std::exception_ptr failure_;
};

void Pool::Workers::stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stops_ = true;
  }
  started_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

Pool::Pool(int threads)
    : threads_(threads), workers_(new Workers(threads - 1)), process_(getpid()) {}

// A process that was forked has none of the threads, for which it would wait here.
Pool::~Pool() {
  if (getpid() != process_) (void)workers_.release();
}

void Pool::run(int64_t count, int64_t grain, Body body, void* context) {
  if (count <= 0) return;
  const bool is_alone =
      current == nullptr || (current->threads_ == 1 && current->callers_.share == nullptr);
  if (is_alone || count <= grain) return body(context, 0, count);
  if (current->callers_.share != nullptr) return current->lend(count, grain, body, context);
  const int64_t pieces = kChunksPerThread * current->threads();
  current->share(count, std::max(grain, (count + pieces - 1) / pieces), body, context);
}

// The caller's code is C: nothing is thrown through it, and a loop that it runs badly is seen.
void Pool::lend(int64_t count, int64_t grain, Body body, void* context) const {
  Lent loop(body, context, count);
  callers_.share(callers_.pool, count, grain, &Lent::call, &loop);
  if (loop.failure) std::rethrow_exception(loop.failure);
  require(loop.done == count, "the caller's parallel loop ran " + std::to_string(loop.done) +
                                  " of " + std::to_string(count) + " parts");
}

void Pool::share(int64_t count, int64_t chunk, Body body, void* context) {
  if (getpid() != process_) {
    // Forked since, as servers do that load a network before they start their processes. What the
    // threads of before left is not touched: some of it seems to be in use for ever.
    (void)workers_.release();
    workers_.reset(new Workers(threads_ - 1));
    process_ = getpid();
  }
  workers_->share(count, chunk, body, context);
}

void Pool::Workers::share(int64_t count, int64_t chunk, Body body, void* context) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    body_ = body, context_ = context, count_ = count, chunk_ = chunk;
    next_ = 0;
    failure_ = nullptr;
    busy_ = static_cast<int>(threads_.size());
    ++loop_;
  }
  started_.notify_all();
  take_chunks();
  std::unique_lock<std::mutex> lock(mutex_);
  finished_.wait(lock, [this] { return busy_ == 0; });
  if (failure_) std::rethrow_exception(failure_);
}

// What a body throws is kept for the caller; the loop goes on to its end.
void Pool::Workers::take_chunks() {
  for (int64_t from = next_.fetch_add(chunk_); from < count_; from = next_.fetch_add(chunk_)) {
    try {
      body_(context_, from, std::min(count_, from + chunk_));
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }
}

void Pool::Workers::work() {
  int64_t done = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    started_.wait(lock, [&] { return stops_ || loop_ != done; });
    if (stops_) return;
    done = loop_;
    lock.unlock();
    take_chunks();
    lock.lock();
    if (--busy_ == 0) finished_.notify_all();
  }
}

}  // namespace micronet::engine
