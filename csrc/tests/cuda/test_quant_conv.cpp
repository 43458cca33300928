// Convolutions of codes by CUDA kernels that run on the host, against a loop over their products.

#include "tests/conv_problem.h"
#include "tests/cuda/inputs.h"

namespace micronet {
namespace {

// Around tiles of 64 pixels and outputs, and of 32 products.
const ConvShape kTiles[] = {shape_of(1, 33, 7, 65, 1, 1, 1, 1), shape_of(1, 32, 7, 64, 1, 1, 1, 1),
                            shape_of(1, 31, 7, 63, 1, 1, 1, 1), shape_of(2, 66, 5, 130, 1, 1, 1, 2),
                            shape_of(1, 9, 8, 3, 5, 2, 1, 1)};

template <typename T>
std::vector<T> convolve(const Problem& p, Accumulator kind, const std::vector<float>& ratio) {
  std::vector<T> out(static_cast<size_t>(p.s.pixels() * p.s.out_channels), T{77});
  std::vector<float> found(static_cast<size_t>(p.s.out_channels), 7.0f);
  std::vector<uint8_t> workspace = dirty(quant_conv2d_cuda_workspace(p.s) + 64);
  void* aligned = workspace.data() + (64 - reinterpret_cast<uintptr_t>(workspace.data()) % 64);
  const QuantConv conv{p.s,        p.codes.data(), p.range.data(), p.levels,
                       p.w.data(), kFloat32,       p.mask.data(),  p.weight_levels,
                       kind,       out.data(),     found.data()};
  CHECK(quant_conv2d_cuda(conv, aligned, nullptr) == kOk);
  for (size_t o = 0; o < found.size(); ++o) CHECK(same(found[o], ratio[o]));
  return out;
}

void sums_are_those_of_a_loop(std::mt19937& random, const ConvShape& s, int levels, int wl,
                              double pruned) {
  const Problem p = draw(random, s, levels, wl, pruned);
  std::vector<float> ratio;
  const auto quantize = [](const Weight& weight) {
    return quantize_per_channel_cuda(weight, kFloat32, kAffine, nullptr);
  };
  const std::vector<int> expected = expected_sums(p, integers(p, quantize, &ratio));
  const auto whole = convolve<int32_t>(p, kInt32, ratio);
  const auto values = convolve<float>(p, kValue, ratio);
  CHECK(std::equal(whole.begin(), whole.end(), expected.begin()));
  for (size_t i = 0; i < expected.size(); ++i) {
    const float value = static_cast<float>(expected[i]) * ratio[i % ratio.size()];
    CHECK(same(values[i], value));
  }
  if (accumulator_bound(s, levels, wl) > kMostInt16) return;
  const auto narrow = convolve<int16_t>(p, kInt16, ratio);
  CHECK(std::equal(narrow.begin(), narrow.end(), expected.begin()));
}

// A range or a channel that is not finite counts as one with a zero point of 0, and its ratio is
// NaN.
void what_is_not_finite(std::mt19937& random, const ConvShape& s) {
  Problem p = draw(random, s, 16, 16, 0.5);
  std::fill(p.mask.begin(), p.mask.end(), uint8_t{0xff});
  p.range = {-1.0f, NAN};
  p.w[0] = NAN;
  const std::vector<float> ratio(static_cast<size_t>(s.out_channels), NAN);
  std::vector<uint8_t> codes(p.w.size());
  std::vector<float> scale(ratio.size()), zero(ratio.size());
  const Weight weight{p.w.data(),      p.mask.data(), s.out_channels, s.depth(),
                      p.weight_levels, codes.data(),  scale.data(),   zero.data()};
  CHECK(quantize_per_channel_cuda(weight, kFloat32, kAffine, nullptr) == kOk);
  std::vector<int> whole(codes.size());
  for (size_t i = 0; i < codes.size(); ++i) {
    const float point = zero[i / static_cast<size_t>(s.depth())];
    whole[i] = codes[i] + (std::isfinite(point) ? static_cast<int>(point) : 0);
  }
  // The codes are their own integers: as under a range whose zero point is 0.
  Problem plain = p;
  plain.range = {0.0f, 1.0f};
  const auto found = convolve<int32_t>(p, kInt32, ratio);
  const std::vector<int> expected = expected_sums(plain, whole);
  CHECK(std::equal(found.begin(), found.end(), expected.begin()));
}

}  // namespace

void run_tests(std::mt19937& random) {
  for (const auto& shapes : {std::vector<ConvShape>(std::begin(kShapes), std::end(kShapes)),
                             std::vector<ConvShape>(std::begin(kTiles), std::end(kTiles))}) {
    for (const ConvShape& shape : shapes) {
      sums_are_those_of_a_loop(random, shape, 16, 16, 0.5);
      sums_are_those_of_a_loop(random, shape, 5, 128, 0.98);
    }
  }
  what_is_not_finite(random, kShapes[1]);
  what_is_not_finite(random, kShapes[6]);
}

}  // namespace micronet
