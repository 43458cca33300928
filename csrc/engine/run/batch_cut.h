// How the images of a batch go through the steps.
#ifndef MICRONET_ENGINE_RUN_BATCH_CUT_H_
#define MICRONET_ENGINE_RUN_BATCH_CUT_H_

#include <cstdint>
#include <vector>

#include "engine/steps/arena.h"

namespace micronet::engine {

// Of signals, half of a usual second-level cache; the other half is for weights.
constexpr int64_t kNearBytes = int64_t{1} << 20;

// First `apart` images, of which a thread takes `together` at a time through all steps, in memory
// of its own: no thread waits for another, and what a step writes is in a near cache when the next
// one reads it. Then the `rest`, all at once, each step being shared by the threads.
struct BatchCut {
  int64_t apart = 0, together = 1, rest = 0;
  int parts = 1;                        // threads that take images apart
  Placement apart_places, rest_places;  // of a part, of the rest

  BatchCut() = default;

  // Where loops are lent, nobody knows how many threads the caller has: all images are the rest.
  BatchCut(const std::vector<Buffer>& buffers, int64_t batch, int threads, bool is_lent);

  // Of the memory for all signals.
  int64_t bytes() const;
};

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_RUN_BATCH_CUT_H_
