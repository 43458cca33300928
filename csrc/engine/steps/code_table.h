// The codes of swish without swish: a table over what it is called on.
#ifndef MICRONET_ENGINE_STEPS_CODE_TABLE_H_
#define MICRONET_ENGINE_STEPS_CODE_TABLE_H_

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

// The codes of swish(t), for every t that the sums can give the code of the definition itself;
// nothing where no table of 64 entries has them.
std::optional<CodeTable> swish_codes(const Quantizer& quantizer, const Arguments& arguments);

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_STEPS_CODE_TABLE_H_
