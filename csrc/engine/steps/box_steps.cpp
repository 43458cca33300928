// Copies of boxes: outputs between two orders of memory, parts, borders.

#include <algorithm>

#include "cpu/parallel.h"
#include "engine/steps/step.h"

namespace micronet::engine {
namespace {

void copy_plane(const float* from, float* to, int64_t rows, int64_t columns, const int64_t* in,
                const int64_t* out) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* x = from + r * in[0];
    float* y = to + r * out[0];
    for (int64_t c = 0; c < columns; ++c) y[c * out[1]] = x[c * in[1]];
  }
}

void copy(const Box& box, const float* from, float* to) {
  if (box.fills) std::fill(to, to + box.to_numel, 0.0f);
  from += box.from, to += box.to;
  const auto &n = box.sizes, &in = box.from_strides, &out = box.to_strides;
  // Strides of rows and columns, and the other way round.
  const int64_t in_plane[] = {in[2], in[3], in[3], in[2]};
  const int64_t out_plane[] = {out[2], out[3], out[3], out[2]};
  // Of short and strided columns the rows are gone through last.
  const bool turns = n[2] > n[3] && in[3] != 1;
  for (int64_t a = 0; a < n[0]; ++a) {
    for (int64_t b = 0; b < n[1]; ++b) {
      const float* x = from + a * in[0] + b * in[1];
      float* y = to + a * out[0] + b * out[1];
      if (turns) {
        copy_plane(x, y, n[3], n[2], in_plane + 2, out_plane + 2);
      } else {
        copy_plane(x, y, n[2], n[3], in_plane, out_plane);
      }
    }
  }
}

class CopyBox : public Step {
 public:
  CopyBox(const Box& box, int from, int to) : box_(box), from_(from), to_(to) {}

  void run(const Run& run) const override {
    const float* from = run.at<float>(from_);
    float* to = to_ == kOutside ? run.output : run.at<float>(to_);
    parallel_for(run.parallel, run.batch, box_.to_numel, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        copy(box_, from + i * box_.from_numel, to + i * box_.to_numel);
      }
    });
  }

 private:
  Box box_;
  int from_, to_;
};

}  // namespace

StepPtr copy_box(const Box& box, int from, int to) {
  return std::make_unique<CopyBox>(box, from, to);
}

}  // namespace micronet::engine
