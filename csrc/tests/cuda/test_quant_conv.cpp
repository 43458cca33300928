// Convolutions of codes by CUDA kernels that run on the host, against a loop over their products.

#include "tests/conv_problem.h"
#include "tests/cuda/inputs.h"

namespace micronet {
namespace {

// Another kernel, stride, dilation and padding each way.
ConvShape oblong(int64_t channels, int64_t outputs, int64_t groups) {
  ConvShape s = shape_of(2, channels, 11, outputs, 3, 1, 1, groups);
  s.kernel_width = 5, s.stride_y = 2, s.dilation_x = 2, s.top = 0, s.left = 3;
  s.out_height = 5, s.out_width = 9;
  return s;
}

// Around tiles of 128 pixels and 32 outputs, and of 64 products of one or several taps; channels
// that copies of 16, 8 and 4 bytes bring, and that none does; depthwise, tiles of 8 by 16 pixels
// and 64 channels, and taps that reach beyond what a tile holds.
const ConvShape kTiles[] = {shape_of(1, 33, 7, 65, 1, 1, 1, 1),
                            shape_of(1, 32, 7, 64, 1, 1, 1, 1),
                            shape_of(1, 31, 7, 63, 1, 1, 1, 1),
                            shape_of(2, 66, 5, 130, 1, 1, 1, 2),
                            shape_of(1, 9, 8, 3, 5, 2, 1, 1),
                            shape_of(1, 96, 10, 33, 3, 1, 1, 1),
                            shape_of(2, 80, 4, 24, 3, 2, 1, 1),
                            shape_of(1, 56, 6, 31, 1, 1, 1, 1),
                            shape_of(1, 128, 5, 64, 3, 1, 2, 4),
                            shape_of(1, 72, 17, 72, 3, 1, 1, 72),
                            shape_of(2, 64, 15, 64, 5, 2, 1, 64),
                            shape_of(1, 8, 40, 8, 7, 1, 6, 8),
                            shape_of(1, 2, 127, 32, 1, 8, 1, 1),
                            oblong(24, 40, 2),
                            oblong(16, 16, 16)};

template <typename T>
std::vector<T> convolve(const Problem& p, Accumulator kind, const std::vector<float>& ratio,
                        int skip = 0) {
  // Codes end where their memory ends, for a sanitizer to see.
  std::vector<uint8_t> codes(static_cast<size_t>(skip));
  codes.insert(codes.end(), p.codes.begin(), p.codes.end());
  std::vector<T> out(static_cast<size_t>(p.s.pixels() * p.s.out_channels), T{77});
  std::vector<float> found(static_cast<size_t>(p.s.out_channels), 7.0f);
  std::vector<uint8_t> workspace = dirty(quant_conv2d_cuda_workspace(p.s) + 64);
  void* aligned = workspace.data() + (64 - reinterpret_cast<uintptr_t>(workspace.data()) % 64);
  const QuantConv conv = p.conv(codes.data() + skip, kind, out.data(), found.data());
  CHECK(quant_conv2d_cuda(conv, aligned, nullptr) == kOk);
  for (size_t o = 0; o < found.size(); ++o) CHECK(same(found[o], ratio[o]));
  return out;
}

// The sums themselves or what they stand for, and where they fit, 16 bits of them.
void sums_are_those_of_a_loop(std::mt19937& random, const Problem& p, bool as_values) {
  std::vector<float> ratio;
  const auto quantize = [&](const Weight& weight) {
    return quantize_per_channel_cuda(weight, kFloat32, p.of.weight_scheme, nullptr);
  };
  const std::vector<int> expected = expected_sums(p, integers(p, quantize, &ratio));
  const int skips[] = {0, 1, 4, 8}, skip = skips[random() % 4];
  if (as_values) {
    const auto values = convolve<float>(p, kValue, ratio, skip);
    for (size_t i = 0; i < expected.size(); ++i) {
      const float value = static_cast<float>(expected[i]) * ratio[i % ratio.size()];
      CHECK(same(values[i], value));
    }
  } else {
    const auto whole = convolve<int32_t>(p, kInt32, ratio, skip);
    CHECK(std::equal(whole.begin(), whole.end(), expected.begin()));
  }
  if (!p.fits_16_bits()) return;
  const auto narrow = convolve<int16_t>(p, kInt16, ratio);
  CHECK(std::equal(narrow.begin(), narrow.end(), expected.begin()));
}

// Whole tiles without a weight: of an output block, of a tap, and of channels; then of all.
void what_is_pruned(std::mt19937& random, const ConvShape& s, const Precision& of) {
  Problem p = draw(random, s, of, 0.1);
  const int64_t depth = s.depth(), taps = s.taps();
  for (int64_t i = 0; i < s.out_channels * depth; ++i) {
    const int64_t output = i / depth, channel = i % depth / taps, tap = i % taps;
    const bool keeps = output >= s.out_channels / 2 && tap != taps / 2 && channel % 64 < 32;
    uint8_t& eight = p.mask[static_cast<size_t>(i / 8)];
    if (!keeps) eight = static_cast<uint8_t>(eight & ~(1 << i % 8));
  }
  sums_are_those_of_a_loop(random, p, random() % 2 == 0);
  std::fill(p.mask.begin(), p.mask.end(), uint8_t{0});
  for (const bool as_values : {false, true}) sums_are_those_of_a_loop(random, p, as_values);
}

// A range or a channel that is not finite counts as one with a zero point of 0, and its ratio is
// NaN.
void what_is_not_finite(std::mt19937& random, const ConvShape& s, const Precision& of) {
  Problem p = draw(random, s, of, 0.5);
  std::fill(p.mask.begin(), p.mask.end(), uint8_t{0xff});
  p.range = {-1.0f, NAN};
  p.w[0] = NAN;
  const std::vector<float> ratio(static_cast<size_t>(s.out_channels), NAN);
  std::vector<uint8_t> codes(p.w.size());
  std::vector<float> scale(ratio.size()), zero(ratio.size());
  const Weight weight{p.w.data(),   p.mask.data(), s.out_channels, s.depth(), p.of.weight_levels,
                      codes.data(), scale.data(),  zero.data(),    nullptr};
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
  // Each shape with half bytes on both sides and with two more, which are others for the next
  // shape; sums and values in turn, so that each shape and each precision comes to both.
  constexpr size_t kOthers = sizeof(kPrecisions) / sizeof(Precision) - 1;
  size_t next = random() % kOthers, turn = random() % 2;
  for (const auto& shapes : {std::vector<ConvShape>(std::begin(kShapes), std::end(kShapes)),
                             std::vector<ConvShape>(std::begin(kTiles), std::end(kTiles))}) {
    for (const ConvShape& shape : shapes) {
      sums_are_those_of_a_loop(random, draw(random, shape, kPrecisions[0], 0.5), turn++ % 2 == 0);
      for (const double pruned : {0.5, 0.98}) {
        const Precision& of = kPrecisions[1 + next++ % kOthers];
        sums_are_those_of_a_loop(random, draw(random, shape, of, pruned), turn++ % 2 == 0);
      }
    }
  }
  for (const Precision& of : {kPrecisions[0], kPrecisions[2]}) {
    what_is_pruned(random, shape_of(1, 160, 4, 70, 3, 1, 1, 1), of);
    what_is_pruned(random, kShapes[7], of);
    what_is_not_finite(random, kShapes[1], of);
    what_is_not_finite(random, kShapes[6], of);
  }
}

}  // namespace micronet
