// What follows the sums of a layer, tile by tile.
#ifndef MICRONET_ENGINE_STEPS_FINISH_H_
#define MICRONET_ENGINE_STEPS_FINISH_H_

#include <atomic>
#include <optional>
#include <vector>

#include "cpu/kernels.h"
#include "engine/steps/step.h"

namespace micronet::engine {

class Finish {
 public:
  // Integers of at most as much as `bounds` of their channel, or floats where there are none;
  // `positions` of an image.
  Finish(const Epilogue& epilogue, std::vector<float> scale, std::vector<float> shift,
         int64_t positions, const std::vector<int64_t>& bounds);

  // Whether the tiles of an image have to come one after the other, for its means. With more
  // threads than images these wait for all values.
  bool in_order(const Run& run) const {
    return epilogue_.means != kNone && (epilogue_.values == kNone || run.batch >= run.threads);
  }

  // Of one run; threads share it.
  class Use {
   public:
    Use(const Finish& finish, const Run& run) : finish_(finish), run_(run) {}
    // Takes the sums of the layer; a reference to this.
    SumsReader reader();
    // Once all tiles are taken. Raises Refused.
    void end() const;

   private:
    void take(const SumsTile& tile);
    void add_means(const SumsTile& tile, FinishTile* part);
    void give_means(const SumsTile& tile) const;
    float* lanes_of(int64_t image) const;

    const Finish& finish_;
    const Run& run_;
    std::atomic<bool> is_finite_{true};
  };

 private:
  Epilogue epilogue_;
  std::vector<float> scale_, shift_;
  int64_t positions_, channels_;
  bool is_near_, has_finite_arguments_;
  Quantizer quantizer_{};
  std::optional<CodeTable> table_;
};

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_STEPS_FINISH_H_
