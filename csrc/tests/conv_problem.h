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

struct Problem {
  ConvShape s;
  std::vector<uint8_t> codes, mask;
  std::vector<float> w, range;
  int levels, weight_levels;
};

inline Problem draw(std::mt19937& random, const ConvShape& s, int levels, int weight_levels,
                    double pruned) {
  Problem p{s,
            bytes(random, packed_bytes(s.in_numel(), kCodeLevels)),
            std::vector<uint8_t>(static_cast<size_t>(bytes_for(s.out_channels * s.depth()))),
            normals(random, s.out_channels * s.depth()),
            {-0.7f, 1.3f},
            levels,
            weight_levels};
  std::bernoulli_distribution keeps(1.0 - pruned);
  for (uint8_t& eight : p.mask) {
    for (int i = 0; i < 8; ++i) eight = static_cast<uint8_t>(2 * eight + keeps(random));
  }
  for (uint8_t& two : p.codes) {
    two = static_cast<uint8_t>(two % 16 % levels | two / 16 % levels << 4);
  }
  return p;
}

// The integers of the images, in the order of their codes.
inline std::vector<int> image_integers(const Problem& p) {
  const Quantizer q = make_quantizer(p.range[0], p.range[1], p.levels, kAffine);
  std::vector<int> whole;
  for (const uint8_t two : p.codes) {
    for (const int code : {two & 15, two >> 4}) {
      whole.push_back(code + static_cast<int>(q.zero_point));
    }
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
  const Weight weight{p.w.data(),      p.mask.data(), s.out_channels, s.depth(),
                      p.weight_levels, codes.data(),  scale.data(),   zero.data()};
  CHECK(quantize(weight) == kOk);
  const Quantizer q = make_quantizer(p.range[0], p.range[1], p.levels, kAffine);
  std::vector<int> whole(p.w.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    whole[i] = codes[i] + static_cast<int>(zero[i / static_cast<size_t>(s.depth())]);
  }
  for (size_t o = 0; o < outputs; ++o) ratio->push_back(1.0f / (q.scale * scale[o]));
  return whole;
}

inline std::vector<int> expected_sums(const Problem& p, const std::vector<int>& weights) {
  const ConvShape& s = p.s;
  const int64_t per_group = s.out_channels / s.groups, channels = s.group_channels(),
                taps = s.taps();
  const std::vector<int> images = image_integers(p);
  std::vector<int> sums(static_cast<size_t>(s.pixels() * s.out_channels));
  for (int64_t at = 0; at < s.pixels() * s.out_channels; ++at) {
    const int64_t o = at % s.out_channels, x = at / s.out_channels % s.out_width;
    const int64_t y = at / s.out_channels / s.out_width % s.out_height;
    const int64_t image = at / s.out_channels / s.out_width / s.out_height;
    int sum = 0;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t iy = y * s.stride_y - s.top + tap / s.kernel_width * s.dilation_y;
      const int64_t ix = x * s.stride_x - s.left + tap % s.kernel_width * s.dilation_x;
      if (iy < 0 || iy >= s.height || ix < 0 || ix >= s.width) continue;
      const int64_t pixel = (image * s.height + iy) * s.width + ix;
      const int* i = images.data() + pixel * s.in_channels + o / per_group * channels;
      const int* w = weights.data() + o * s.depth() + tap;
      for (int64_t c = 0; c < channels; ++c) sum += i[c] * w[c * taps];
    }
    sums[static_cast<size_t>(at)] = sum;
  }
  return sums;
}

}  // namespace micronet

#endif  // MICRONET_TESTS_CONV_PROBLEM_H_
