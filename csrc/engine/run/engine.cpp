// A packed network, ready to run.

#include "engine/run/engine.h"

#include <sys/stat.h>

#include <chrono>

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

int64_t Engine::arena_bytes(int64_t batch) const {
  check_batch(batch);
  return place(plan_.buffers, batch).bytes;
}

void Engine::reserve(int64_t batch) {
  check_batch(batch);
  if (batch == batch_) return;
  batch_ = 0;
  placement_ = place(plan_.buffers, batch);
  if (placement_.bytes > arena_.size()) arena_ = AlignedBytes(placement_.bytes);
  batch_ = batch;
}

void Engine::run(const float* images, int64_t batch, float* output) {
  reserve(batch);
  run({batch, arena_.data(), placement_.offsets.data(), images, output, Pool::loops,
       pool_.threads()});
}

void Engine::run_pixels(const uint8_t* pixels, bool channels_last, int64_t batch, float* output) {
  require(document_.has_normalization(), "the file does not say how pixels are normalized");
  reserve(batch);
  run({batch, arena_.data(), placement_.offsets.data(), nullptr, output, Pool::loops,
       pool_.threads(), pixels, channels_last});
}

void Engine::run(const Run& run) {
  using Clock = std::chrono::steady_clock;
  const Pool::Use use(&pool_);
  for (size_t i = 0; i < plan_.steps.size(); ++i) {
    const Clock::time_point start = times_.empty() ? Clock::time_point() : Clock::now();
    plan_.steps[i]->run(run);
    if (times_.empty()) continue;
    times_[i].seconds += std::chrono::duration<double>(Clock::now() - start).count();
  }
}

void Engine::start_profile() {
  times_.clear();
  for (const StepPtr& step : plan_.steps) times_.push_back({step->title});
}

}  // namespace micronet::engine
