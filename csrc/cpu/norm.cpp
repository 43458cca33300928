// Batch normalization of a convolution's sums on the CPU: a loop over some hundred channels.

#include "include/norm.h"

#include "include/core.h"

namespace micronet {

int norm_fold_cpu(const Norm& norm, const double* sums, int64_t count,
                  const RunningStatistics& running, const NormFold& out) {
  for (int64_t c = 0; c < norm.channels; ++c) fold_channel(norm, sums, count, running, out, c);
  return kOk;
}

int norm_gradient_map_cpu(const Norm& norm, const NormGradient& gradient,
                          const NormGradientMap& out) {
  for (int64_t c = 0; c < norm.channels; ++c) map_channel(norm, gradient, out, c);
  return kOk;
}

}  // namespace micronet
