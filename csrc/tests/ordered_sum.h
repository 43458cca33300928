// The stated order of a sum, for tests of either device.
#ifndef MICRONET_TESTS_ORDERED_SUM_H_
#define MICRONET_TESTS_ORDERED_SUM_H_

#include <vector>

#include "include/core.h"

namespace micronet {

// The sum as core.h states it, in so many words. Of csrc/tests/plain.cpp.
float ordered_sum(std::vector<float> terms);

}  // namespace micronet

#endif  // MICRONET_TESTS_ORDERED_SUM_H_
