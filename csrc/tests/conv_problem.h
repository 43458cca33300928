// Convolutions of random codes with random weights, and what they come to product by product.
#ifndef MICRONET_TESTS_CONV_PROBLEM_H_
#define MICRONET_TESTS_CONV_PROBLEM_H_

#include "include/conv.h"
#include "tests/check.h"

namespace micronet {

inline ConvShape shape_of(int64_t images, int64_t channels, int64_t side, int64_t outputs,
                          int64_t kernel, int64_t stride, int64_t dilation, int64_t groups) {
  ConvShape s{};
  s.images = images, s.in_channels = channels, s.height = side, s.width = side + 1;
  s.out_channels = outputs, s.groups = groups, s.kernel_height = s.kernel_width = kernel;
  s.stride_y = s.stride_x = stride, s.dilation_y = s.dilation_x = dilation;
  s.top = s.left = kernel / 2;
  const int64_t reach = dilation * (kernel - 1) + 1, padding = kernel / 2 + 1;
  s.out_height = (s.height + s.top + padding - reach) / stride + 1;
  s.out_width = (s.width + s.left + padding - reach) / stride + 1;
  return s;
}

const ConvShape kShapes[] = {
    shape_of(1, 1, 1, 1, 1, 1, 1, 1),    shape_of(2, 7, 5, 19, 1, 1, 1, 1),
    shape_of(1, 33, 9, 70, 1, 2, 1, 1),  shape_of(1, 5, 9, 17, 3, 2, 1, 1),
    shape_of(2, 6, 8, 4, 3, 1, 2, 2),    shape_of(1, 70, 17, 70, 5, 1, 1, 70),
    shape_of(3, 3, 6, 3, 3, 2, 2, 3),    shape_of(2, 16, 8, 16, 3, 1, 1, 16),
    shape_of(3, 290, 7, 90, 1, 1, 1, 1), shape_of(1, 8, 14, 8, 5, 1, 2, 8),
    shape_of(2, 40, 9, 40, 5, 2, 1, 40)};

// How a convolution's input and weights are rounded.
struct Precision {
  int levels, weight_levels;
  int scheme = kAffine, weight_scheme = kAffine;
};

// Half bytes and bytes on either side, integers of weights that fit a signed byte or do not, and
// every scheme.
constexpr Precision kPrecisions[] = {{16, 16},
                                     {5, 128},
                                     {256, 256},
                                     {17, 2, kLearned},
                                     {16, 256},
                                     {200, 16, kAffine, kSymmetric},
                                     {256, 255, kLearned, kSymmetric},
                                     {16, 16, kLearned, kLearned},
                                     {256, 256, kLearned, kLearned}};

struct Problem {
  ConvShape s;
  std::vector<uint8_t> codes, mask;
  std::vector<float> w, range, steps;
  Precision of;

  Coding coding() const { return {range.data(), of.levels, of.scheme}; }
  QuantConv conv(const uint8_t* code, Accumulator kind, void* out, float* ratio) const {
    return {s,
            code,
            coding(),
            w.data(),
            kFloat32,
            mask.data(),
            of.weight_levels,
            of.weight_scheme,
            of.weight_scheme == kLearned ? steps.data() : nullptr,
            kind,
            out,
            ratio};
  }
  bool fits_16_bits() const {
    return accumulator_bound(s, of.levels, of.weight_levels) <= kMostInt16;
  }
};

// Steps and zero points of weights of both signs.
inline std::vector<float> draw_steps(std::mt19937& random, int64_t outputs, int levels) {
  std::vector<float> steps(static_cast<size_t>(2 * outputs));
  for (size_t o = 0; o < static_cast<size_t>(outputs); ++o) {
    steps[o] = static_cast<float>(1 + random() % 8) / static_cast<float>(levels);
    const int zero = static_cast<int>(random() % static_cast<unsigned>(levels));
    steps[static_cast<size_t>(outputs) + o] = static_cast<float>(-zero);
  }
  return steps;
}

inline Problem draw(std::mt19937& random, const ConvShape& s, const Precision& of, double pruned) {
  Problem p{s,
            bytes(random, code_bytes(s.in_numel(), of.levels)),
            std::vector<uint8_t>(static_cast<size_t>(bytes_for(s.out_channels * s.depth()))),
            normals(random, s.out_channels * s.depth()),
            {-0.7f, 1.3f},
            draw_steps(random, s.out_channels, of.weight_levels),
            of};
  if (of.scheme == kLearned) p.range = {0.1f, static_cast<float>(-of.levels / 3)};
  std::bernoulli_distribution keeps(1.0 - pruned);
  for (uint8_t& eight : p.mask) {
    for (int i = 0; i < 8; ++i) eight = static_cast<uint8_t>(2 * eight + keeps(random));
  }
  for (uint8_t& byte : p.codes) {
    byte = static_cast<uint8_t>(are_half_bytes(of.levels)
                                    ? byte % 16 % of.levels | byte / 16 % of.levels << 4
                                    : byte % of.levels);
  }
  return p;
}

inline int code_at(const std::vector<uint8_t>& codes, int64_t i, int levels) {
  const size_t at = static_cast<size_t>(i);
  return are_half_bytes(levels) ? codes[at / 2] >> (at % 2 * 4) & 15 : codes[at];
}

// The integers of the images, in the order of their codes.
inline std::vector<int> image_integers(const Problem& p) {
  const int zero = static_cast<int>(p.coding().quantizer().zero_point);
  std::vector<int> whole;
  for (int64_t i = 0; i < p.s.in_numel(); ++i) {
    whole.push_back(code_at(p.codes, i, p.of.levels) + zero);
  }
  return whole;
}

// The integers of the weights, rounded by `quantize`, and the ratio of each channel.
template <typename Quantize>
std::vector<int> integers(const Problem& p, const Quantize& quantize, std::vector<float>* ratio) {
  const ConvShape& s = p.s;
  const size_t outputs = static_cast<size_t>(s.out_channels);
  std::vector<uint8_t> codes(p.w.size());
  std::vector<float> scale(outputs), zero(outputs);
  const Weight weight{p.w.data(),   p.mask.data(),      s.out_channels,
                      s.depth(),    p.of.weight_levels, codes.data(),
                      scale.data(), zero.data(),        p.steps.data()};
  CHECK(quantize(weight) == kOk);
  const Quantizer q = p.coding().quantizer();
  std::vector<int> whole(p.w.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    whole[i] = codes[i] + static_cast<int>(zero[i / static_cast<size_t>(s.depth())]);
  }
  for (size_t o = 0; o < outputs; ++o) ratio->push_back(1.0f / (q.scale * scale[o]));
  return whole;
}

// The sums of the products of two lists of integers. Of csrc/tests/plain.cpp.
std::vector<int> convolve_plainly(const ConvShape& s, const std::vector<int>& images,
                                  const std::vector<int>& weights);

inline std::vector<int> expected_sums(const Problem& p, const std::vector<int>& weights) {
  return convolve_plainly(p.s, image_integers(p), weights);
}

}  // namespace micronet

#endif  // MICRONET_TESTS_CONV_PROBLEM_H_
