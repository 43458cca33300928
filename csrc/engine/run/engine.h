// A packed network, ready to run.
#ifndef MICRONET_ENGINE_RUN_ENGINE_H_
#define MICRONET_ENGINE_RUN_ENGINE_H_

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/run/batch_cut.h"
#include "engine/run/plan.h"
#include "engine/run/pool.h"

namespace micronet::engine {

struct StepTime {
  std::string title;
  double seconds = 0.0;
};

class Engine {
 public:
  // From the bytes of a file, which are not needed afterwards. Raises Refused.
  explicit Engine(std::span<const uint8_t> file, int threads = 1);

  // From a file, or from the `model.safetensors` of a folder.
  static std::unique_ptr<Engine> open(const std::string& path, int threads);

  const Document& document() const { return document_; }
  const Sizes& output_shape() const {
    return signals_[static_cast<size_t>(document_.output)].shape;
  }
  int threads() const { return pool_.threads(); }

  // Loops of the caller's, in place of the engine's own threads; none takes these again.
  void set_loops(CallersLoops loops);

  // Bytes of the arena for a batch.
  int64_t arena_bytes(int64_t batch) const;

  // Makes the arena ready for a batch. Raises Refused, or std::bad_alloc.
  void reserve(int64_t batch);

  // images [batch, C, H, W] to output [batch, ...]; one run at a time. Raises Refused where a value
  // has no code.
  void run(const float* images, int64_t batch, float* output);

  // Bytes [batch, C, H, W], or [batch, H, W, C], normalized as the document says. Raises Refused
  // where it does not.
  void run_pixels(const uint8_t* pixels, bool channels_last, int64_t batch, float* output);

  // From now on runs add up the time of each step, of all threads that do it for images of their
  // own.
  void start_profile();
  const std::vector<StepTime>& profile() const { return times_; }

 private:
  Engine(const Container& container, int threads);

  void run(const Run& whole);
  void run_apart(const Run& whole);
  void run_steps(const Run& run);
  // Images [first, first + count) of a run, whose signals have their places in `memory`.
  Run some_of(const Run& whole, int64_t first, int64_t count, const Placement& places,
              uint8_t* memory) const;

  Document document_;
  std::vector<Signal> signals_;
  Plan plan_;
  Pool pool_;
  BatchCut cut_;
  AlignedBytes arena_;
  int64_t batch_ = 0;  // that is cut
  std::mutex times_mutex_;
  std::vector<StepTime> times_;
};

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_RUN_ENGINE_H_
