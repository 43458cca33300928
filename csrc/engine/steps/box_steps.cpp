// Copies of boxes: outputs between two orders of memory, parts, borders.

#include <algorithm>

#include "cpu/parallel.h"
#include "engine/steps/step.h"

namespace micronet::engine {
namespace {

void copy(const Box& box, const float* from, float* to) {
  if (box.fills) std::fill(to, to + box.to_numel, 0.0f);
  from += box.from, to += box.to;
  const auto &n = box.sizes, &in = box.from_strides, &out = box.to_strides;
  for (int64_t a = 0; a < n[0]; ++a) {
    for (int64_t b = 0; b < n[1]; ++b) {
      for (int64_t c = 0; c < n[2]; ++c) {
        const float* x = from + a * in[0] + b * in[1] + c * in[2];
        float* y = to + a * out[0] + b * out[1] + c * out[2];
        for (int64_t d = 0; d < n[3]; ++d) y[d * out[3]] = x[d * in[3]];
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
