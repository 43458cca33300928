// The stated order of a sum, for tests of either device.
#ifndef MICRONET_TESTS_ORDERED_SUM_H_
#define MICRONET_TESTS_ORDERED_SUM_H_

#include <vector>

#include "include/core.h"

namespace micronet {

// The sum as core.h states it, in so many words.
inline float ordered_sum(std::vector<float> terms) {
  while (true) {
    const size_t blocks = static_cast<size_t>(sum_blocks(static_cast<int64_t>(terms.size())));
    terms.resize(blocks * kSumBlock, 0.0f);
    std::vector<float> sums;
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
      sums.push_back(lanes[0]);
    }
    if (blocks == 1) return sums[0];
    terms = sums;
  }
}

}  // namespace micronet

#endif  // MICRONET_TESTS_ORDERED_SUM_H_
