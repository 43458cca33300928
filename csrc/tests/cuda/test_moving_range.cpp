// The moving range by CUDA kernels that run on the host, against plain loops.

#include "tests/cuda/inputs.h"

namespace micronet {
namespace {

// What a quantizer remembers, moved by the plain functions.
struct State {
  float ema[2] = {0, 0}, range[2] = {0, 0};
  int64_t step = 0;

  void move(const float* extremes, float decay) {
    ++step;
    for (int side = 0; side < 2; ++side) {
      ema[side] = move_average(ema[side], extremes[side], decay);
      range[side] = correct_bias(ema[side], decay, step);
    }
  }

  void check(const State& found) const {
    CHECK(found.step == step);
    for (int side = 0; side < 2; ++side) {
      CHECK(same(found.ema[side], ema[side]) && same(found.range[side], range[side]));
    }
  }
};

void follows_the_extremes(std::mt19937& random, DType type, int64_t numel, int skip) {
  State expected, found;
  for (const Kind kind : {kUsual, kUsual, kExtreme, kHostile}) {
    Elements x = inputs(random, type, numel, skip, kind);
    const int status = update_range_cuda(x.data(), type, numel, 0.9f, found.ema, found.range,
                                         &found.step, workspace().data(), nullptr);
    CHECK(status == (numel == 0 ? kNoElements : kOk));
    if (numel != 0) expected.move(extremes_of(x, numel).ends, 0.9f);
    expected.check(found);
  }
}

void moves_by_known_extremes(std::mt19937& random) {
  State expected, found;
  for (int i = 0; i < 100; ++i) {
    const Range extremes = any_range(random);
    if (i == 0 || random() % 8 == 0) expected = found = State();
    expected.move(extremes.ends, 0.99f);
    CHECK(move_range_cuda(extremes.ends, 0.99f, found.ema, found.range, &found.step, nullptr) ==
          kOk);
    expected.check(found);
  }
}

}  // namespace

void run_tests(std::mt19937& random) {
  on_all_edges([&](DType type, int64_t numel, int skip) {
    follows_the_extremes(random, type, numel, skip);
  });
  moves_by_known_extremes(random);
}

}  // namespace micronet
