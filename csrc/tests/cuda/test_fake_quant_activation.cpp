// Rounding on CUDA kernels that run on the host, against plain loops.

#include "tests/cuda/inputs.h"

namespace micronet {
namespace {

// One rounding by `levels` and `scheme`, with fresh outputs.
struct Trial {
  DType type;
  int64_t numel;
  int levels, scheme;
  Elements x, y;
  Range range;
  std::vector<uint8_t> inside;

  Trial(std::mt19937& random, DType type, int64_t numel, int skip, int levels, int scheme)
      : type(type),
        numel(numel),
        levels(levels_for(scheme, levels)),
        scheme(scheme),
        x(inputs(random, type, numel, skip, any_kind(random))),
        y(type, numel, random() % 4 == 0 ? 1 : skip),
        range(any_range(random)),
        inside(dirty(bytes_for(numel))) {}

  void check(const float* ends) const {
    const Quantizer q = make_quantizer(ends[0], ends[1], levels, scheme);
    for (int64_t i = 0; i < numel; ++i) {
      CHECK(same(y[i], rounded_to(type, dequantize(quantize(x[i], q), q))));
    }
    check_inside(x, numel, q, inside);
  }
};

void rounds_each_element(Trial t) {
  CHECK(fake_quant_per_tensor_cuda(t.x.data(), t.type, t.numel, t.range.ends, t.levels, t.scheme,
                                   t.y.data(), t.inside.data(), nullptr) == kOk);
  t.check(t.range.ends);
}

void observes_what_it_rounds(Trial t, int64_t step) {
  float extremes[2] = {1e9f, 1e9f};
  const int status = fake_quant_per_tensor_observed_cuda(
      t.x.data(), t.type, t.numel, t.range.ends, &step, t.levels, t.scheme, t.y.data(),
      t.inside.data(), extremes, workspace().data(), nullptr);
  CHECK(status == (t.numel == 0 ? kNoElements : kOk));
  if (t.numel == 0) return;
  CHECK(extremes_of(t.x, t.numel).is(extremes));
  t.check(step == 0 ? extremes : t.range.ends);
}

}  // namespace

void run_tests(std::mt19937& random) {
  on_all_edges([&](DType type, int64_t numel, int skip) {
    const int drawn = kLevels[random() % 4];
    for (const int levels : kLevels) {
      if (numel > kManyTiles && levels != drawn) continue;
      const int scheme = kSchemes[random() % kSchemeCount];
      for (const int64_t step : {0, 3}) {
        observes_what_it_rounds(Trial(random, type, numel, skip, levels, scheme), step);
      }
      for (const int each : kSchemes) {
        if (numel > kManyTiles && each != scheme) continue;
        rounds_each_element(Trial(random, type, numel, skip, levels, each));
      }
    }
  });
}

}  // namespace micronet
