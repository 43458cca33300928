// What tests draw and expect: plain loops over their own memory, which no sanitizer looks at. All
// that is called is inlined, so that no test has functions of the standard library from here.

#include <random>
#include <vector>

#include "include/conv.h"
#include "include/function.h"
#include "tests/check.h"
#include "tests/conv_problem.h"
#include "tests/ordered_sum.h"

namespace micronet {

__attribute__((flatten)) std::vector<float> normals(std::mt19937& random, int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = normal(random);
  return values;
}

__attribute__((flatten)) std::vector<uint8_t> bytes(std::mt19937& random, int64_t count) {
  std::vector<uint8_t> values(static_cast<size_t>(count));
  for (uint8_t& v : values) v = static_cast<uint8_t>(random());
  return values;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  bool all = a.size() == b.size();
  for (size_t i = 0; i < a.size() && all; ++i) all = same(a[i], b[i]);
  return all;
}

namespace {

// By instructions that round a product and a sum once, where the machine has them.
#ifdef MICRONET_X86
__attribute__((target_clones("fma", "default")))
#endif
void swish_codes(const int32_t* sums, size_t count, const float* scale, const float* shift,
                 size_t channels, Quantizer q, uint8_t* codes) {
  for (size_t c = 0; c < channels; ++c) {
    for (size_t i = c; i < count; i += channels) {
      const float code = quantize(swish(fmaf(static_cast<float>(sums[i]), scale[c], shift[c])), q);
      codes[i] = static_cast<uint8_t>(static_cast<int>(code - q.code_min));
    }
  }
}

}  // namespace

std::vector<uint8_t> swish_codes_plainly(const std::vector<int32_t>& sums, const float* scale,
                                         const float* shift, size_t channels, const Quantizer& q) {
  std::vector<uint8_t> codes(sums.size());
  swish_codes(sums.data(), sums.size(), scale, shift, channels, q, codes.data());
  return codes;
}

float ordered_sum(std::vector<float> terms) {
  while (true) {
    const size_t blocks = static_cast<size_t>(sum_blocks(static_cast<int64_t>(terms.size())));
    terms.resize(blocks * kSumBlock, 0.0f);
    std::vector<float> sums(blocks);
    for (size_t b = 0; b < blocks; ++b) {
      float lanes[kSumLanes] = {};
      for (int row = 0; row < kSumRows; ++row) {
        for (int l = 0; l < kSumLanes; ++l) {
          const size_t at = static_cast<size_t>(row * kSumLanes + l);
          lanes[l] = lanes[l] + terms[b * kSumBlock + at];
        }
      }
      for (int half = kSumLanes / 2; half > 0; half /= 2) {
        for (int l = 0; l < half; ++l) lanes[l] = lanes[l] + lanes[l + half];
      }
      sums[b] = lanes[0];
    }
    if (blocks == 1) return sums[0];
    terms = sums;
  }
}

std::vector<int> convolve_plainly(const ConvShape& s, const std::vector<int>& images,
                                  const std::vector<int>& weights) {
  const int64_t per_group = s.out_channels / s.groups, channels = s.group_channels(),
                taps = s.taps();
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
