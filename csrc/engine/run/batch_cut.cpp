// How the images of a batch go through the steps.

#include "engine/run/batch_cut.h"

#include <algorithm>

namespace micronet::engine {
namespace {

// As many images as stay near, so that steps are begun and weights read once for all of them.
int64_t images_together(const std::vector<Buffer>& buffers, int64_t most) {
  const int64_t one = std::max(place(buffers, 1).bytes, int64_t{1});
  return std::clamp(kNearBytes / one, int64_t{1}, most);
}

}  // namespace

BatchCut::BatchCut(const std::vector<Buffer>& buffers, int64_t batch, int threads, bool is_lent)
    : rest(batch) {
  if (!is_lent && batch >= threads) {
    apart = batch - batch % threads;
    rest = batch - apart;
    parts = threads;
    together = images_together(buffers, apart / threads);
    apart_places = place(buffers, together);
  }
  if (rest > 0) rest_places = place(buffers, rest);
}

int64_t BatchCut::bytes() const { return std::max(parts * apart_places.bytes, rest_places.bytes); }

}  // namespace micronet::engine
