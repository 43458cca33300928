// A packed network, ready to run.

#include "engine/run/engine.h"

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "cpu/parallel.h"
#include "engine/format/error.h"
#include "engine/format/sha256.h"

namespace micronet::engine {
namespace {

constexpr int kMostThreads = 256;
constexpr int64_t kMostBatch = 65536;

Document checked(const Container& container) {
  Document document(container.document, container.file_bytes);
  require(document.checksum == sha256(container.data),
          "is damaged: its tensors do not have the SHA-256 of the metadata");
  return document;
}

int checked_threads(int threads) {
  require(1 <= threads && threads <= kMostThreads,
          std::to_string(threads) + " threads are not 1 to " + std::to_string(kMostThreads));
  return threads;
}

void check_batch(int64_t batch) {
  require(1 <= batch && batch <= kMostBatch,
          std::to_string(batch) + " images are not 1 to " + std::to_string(kMostBatch));
}

std::string file_of(const std::string& path) {
  struct stat facts;
  const bool is_folder = stat(path.c_str(), &facts) == 0 && S_ISDIR(facts.st_mode);
  return is_folder ? path + "/model.safetensors" : path;
}

}  // namespace

Engine::Engine(std::span<const uint8_t> file, int threads) : Engine(Container(file), threads) {}

Engine::Engine(const Container& container, int threads)
    : document_(checked(container)),
      signals_(signals_of(document_)),
      pool_(checked_threads(threads)) {
  Tensors tensors(container);
  plan_ = make_plan(document_, signals_, container.file_bytes, &tensors);
  tensors.finish();
}

std::unique_ptr<Engine> Engine::open(const std::string& path, int threads) {
  const std::string name = file_of(path);
  try {
    const MappedFile file(name);
    return std::make_unique<Engine>(file.bytes(), threads);
  } catch (const Refused& refused) {
    refuse(name + ": " + refused.what());
  }
}

void Engine::set_loops(CallersLoops loops) {
  pool_.set_loops(loops);
  batch_ = 0;  // is cut in another way
}

int64_t Engine::arena_bytes(int64_t batch) const {
  check_batch(batch);
  return BatchCut(plan_.buffers, batch, pool_.threads(), pool_.is_lent()).bytes();
}

void Engine::reserve(int64_t batch) {
  check_batch(batch);
  if (batch == batch_) return;
  batch_ = 0;
  cut_ = BatchCut(plan_.buffers, batch, pool_.threads(), pool_.is_lent());
  if (cut_.bytes() > arena_.size()) arena_ = AlignedBytes(cut_.bytes());
  batch_ = batch;
}

void Engine::run(const float* images, int64_t batch, float* output) {
  reserve(batch);
  run({batch, nullptr, nullptr, images, output, Pool::loops, pool_.threads()});
}

void Engine::run_pixels(const uint8_t* pixels, bool channels_last, int64_t batch, float* output) {
  require(document_.has_normalization(),
          "the packed network does not say how pixels are normalized: export it with mean and std");
  reserve(batch);
  run({batch, nullptr, nullptr, nullptr, output, Pool::loops, pool_.threads(), pixels,
       channels_last});
}

Run Engine::some_of(const Run& whole, int64_t first, int64_t count, const Placement& places,
                    uint8_t* memory) const {
  const int64_t input = first * Signal{document_.input}.numel();
  const int64_t output = first * Signal{output_shape()}.numel();
  return {count,
          memory,
          places.offsets.data(),
          whole.images == nullptr ? nullptr : whole.images + input,
          whole.output + output,
          whole.parallel,
          whole.threads,
          whole.pixels == nullptr ? nullptr : whole.pixels + input,
          whole.pixels_last};
}

void Engine::run(const Run& whole) {
  const Pool::Use use(&pool_);
  if (cut_.apart > 0) run_apart(whole);
  if (cut_.rest > 0) {
    run_steps(some_of(whole, cut_.apart, cut_.rest, cut_.rest_places, arena_.data()));
  }
}

// Each thread takes images as long as there are some: one that is held up does fewer.
void Engine::run_apart(const Run& whole) {
  std::atomic<int64_t> next{0};
  parallel_for(Pool::loops, cut_.parts, kGrainElements, [&](int64_t from, int64_t to) {
    const Pool::Use alone(nullptr);
    Run own = whole;
    own.threads = 1;
    for (int64_t part = from; part < to; ++part) {
      uint8_t* memory = arena_.data() + part * cut_.apart_places.bytes;
      for (int64_t first = next.fetch_add(cut_.together); first < cut_.apart;
           first = next.fetch_add(cut_.together)) {
        const int64_t count = std::min(cut_.together, cut_.apart - first);
        run_steps(some_of(own, first, count, cut_.apart_places, memory));
      }
    }
  });
}

void Engine::run_steps(const Run& run) {
  if (times_.empty()) {
    for (const StepPtr& step : plan_.steps) step->run(run);
    return;
  }
  using Clock = std::chrono::steady_clock;
  for (size_t i = 0; i < plan_.steps.size(); ++i) {
    const Clock::time_point start = Clock::now();
    plan_.steps[i]->run(run);
    const std::chrono::duration<double> took = Clock::now() - start;
    const std::lock_guard<std::mutex> lock(times_mutex_);
    times_[i].seconds += took.count();
  }
}

void Engine::start_profile() {
  times_.clear();
  for (const StepPtr& step : plan_.steps) times_.push_back({step->title});
}

}  // namespace micronet::engine
