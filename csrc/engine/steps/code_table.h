// The codes of swish without swish: a table over what it is called on.
#ifndef MICRONET_ENGINE_STEPS_CODE_TABLE_H_
#define MICRONET_ENGINE_STEPS_CODE_TABLE_H_

#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "cpu/kernels.h"

namespace micronet::engine {

// Sums of at most `bounds` and what makes arguments of them: t = fma(sum, scale, shift), all by
// channel.
struct Arguments {
  const std::vector<float>&scale, &shift;
  const std::vector<int64_t>& bounds;
};

// The sums of a channel, and their arguments.
class ChannelSums {
 public:
  // Whole numbers from `first` to `last`; none where that is less.
  struct Range {
    double first, last;
  };

  ChannelSums(float scale, float shift, int64_t bound);

  float argument_of(double sum) const { return fmaf(static_cast<float>(sum), scale_, shift_); }
  // All sums with arguments in [low, high], of which none is 0, and few others. Of a scale of 0 all
  // sums have the argument of the sum 0, which stands for them.
  Range within(float low, float high) const;

 private:
  float scale_, shift_;
  double per_sum_, bound_, margin_;
};

// The codes of swish(t), for every t that the sums can give the code of the definition itself;
// nothing where no table of 64 entries has them.
std::optional<CodeTable> swish_codes(const Quantizer& quantizer, const Arguments& arguments);

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_STEPS_CODE_TABLE_H_
