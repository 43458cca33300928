// A few threads that wait for loops.

#include "engine/run/pool.h"

#include <algorithm>
#include <string>

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

Pool::Pool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
}

Pool::~Pool() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stops_ = true;
  }
  started_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::run(int64_t count, int64_t grain, Body body, void* context) {
  if (count <= 0) return;
  const bool is_alone =
      current == nullptr || (current->workers_.empty() && current->callers_.share == nullptr);
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
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    body_ = body, context_ = context, count_ = count, chunk_ = chunk;
    next_ = 0;
    failure_ = nullptr;
    busy_ = static_cast<int>(workers_.size());
    ++loop_;
  }
  started_.notify_all();
  take_chunks();
  std::unique_lock<std::mutex> lock(mutex_);
  finished_.wait(lock, [this] { return busy_ == 0; });
  if (failure_) std::rethrow_exception(failure_);
}

// What a body throws is kept for the caller; the loop goes on to its end.
void Pool::take_chunks() {
  for (int64_t from = next_.fetch_add(chunk_); from < count_; from = next_.fetch_add(chunk_)) {
    try {
      body_(context_, from, std::min(count_, from + chunk_));
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }
}

void Pool::work() {
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
