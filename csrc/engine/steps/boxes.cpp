// Boxes between signals.

#include "engine/steps/boxes.h"

#include <algorithm>
#include <numeric>

namespace micronet::engine {
namespace {

int64_t numel_of(const Sizes& shape) { return Signal{shape}.numel(); }

// Up to four axes, in the order in which the output lies in memory.
Box box_of(const Sizes& sizes, const Sizes& from_strides, const Sizes& to_strides) {
  std::vector<size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return to_strides[a] > to_strides[b]; });
  Box box;
  for (size_t i = 0; i < order.size(); ++i) {
    const size_t axis = 4 - order.size() + i;
    box.sizes[axis] = sizes[order[i]];
    box.from_strides[axis] = from_strides[order[i]];
    box.to_strides[axis] = to_strides[order[i]];
  }
  return box;
}

}  // namespace

Sizes row_strides(const Sizes& shape) {
  Sizes strides(shape.size(), 1);
  for (size_t i = shape.size() - 1; i > 0; --i) strides[i - 1] = strides[i] * shape[i];
  return strides;
}

Sizes strides_of(const Sizes& shape) {
  if (shape.size() == 3) return {1, shape[2] * shape[0], shape[0]};
  return row_strides(shape);
}

Box whole_box(const Sizes& shape, const Sizes& from_strides, const Sizes& to_strides) {
  Box box = box_of(shape, from_strides, to_strides);
  box.from_numel = box.to_numel = numel_of(shape);
  return box;
}

Box slice_box(const Node& node, const Sizes& from, const Sizes& to) {
  const auto& [start, stop, step, none] = node.numbers;
  Sizes strides = strides_of(from);
  int64_t first = 0;
  for (size_t i = 0; i < from.size(); ++i) {
    first += start[i] * strides[i];
    strides[i] *= step[i];
  }
  Box box = box_of(to, strides, strides_of(to));
  box.from = first;
  box.from_numel = numel_of(from), box.to_numel = numel_of(to);
  return box;
}

Box pad_box(const Node& node, const Sizes& from, const Sizes& to) {
  const Sizes strides = strides_of(to);
  Box box = box_of(from, strides_of(from), strides);
  for (size_t i = 0; i < to.size(); ++i) box.to += node.numbers[0][i] * strides[i];
  box.from_numel = numel_of(from), box.to_numel = numel_of(to);
  box.fills = true;
  return box;
}

}  // namespace micronet::engine
