// One piece of memory for all signals.

#include "engine/steps/arena.h"

#include <algorithm>
#include <new>
#include <numeric>

#include "include/conv_workspace.h"

namespace micronet::engine {
namespace {

constexpr std::align_val_t kAlignment{64};
// Loops over codes may read so far behind the last one; see QuantConv.
constexpr int64_t kReadBehind = 64;

struct Placed {
  int64_t begin, end;
  int first, last;
};

int64_t lowest_gap(const std::vector<Placed>& placed, const Buffer& buffer, int64_t bytes) {
  int64_t at = 0;
  for (const Placed& other : placed) {  // in the order of their places
    if (other.last < buffer.first || other.first > buffer.last) continue;
    if (other.begin >= at + bytes) break;
    at = std::max(at, other.end);
  }
  return at;
}

}  // namespace

AlignedBytes::AlignedBytes(int64_t bytes)
    : memory_(static_cast<uint8_t*>(::operator new[](static_cast<size_t>(bytes), kAlignment))),
      size_(bytes) {}

void AlignedBytes::Free::operator()(uint8_t* memory) const {
  ::operator delete[](memory, kAlignment);
}

Placement place(const std::vector<Buffer>& buffers, int64_t batch) {
  std::vector<size_t> order(buffers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return buffers[a].bytes_per_image > buffers[b].bytes_per_image;
  });
  Placement result;
  result.offsets.resize(buffers.size());
  std::vector<Placed> placed;
  for (const size_t i : order) {
    const Buffer& buffer = buffers[i];
    const int64_t bytes = round_up(buffer.bytes_per_image * batch + kReadBehind, 64);
    const int64_t at = lowest_gap(placed, buffer, bytes);
    const Placed one{at, at + bytes, buffer.first, buffer.last};
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), one,
                         [](const Placed& a, const Placed& b) { return a.begin < b.begin; }),
        one);
    result.offsets[i] = at;
    result.bytes = std::max(result.bytes, at + bytes);
  }
  return result;
}

}  // namespace micronet::engine
