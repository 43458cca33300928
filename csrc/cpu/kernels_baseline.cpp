// The inner loops for baseline; compiled with that instruction set allowed.

#include "vector_baseline.h"
// The vector first, then what is built on it.
#include "dots_baseline.h"
// The loops need both above them.
#include "table.h"

namespace micronet {

constexpr Kernels kTable = table("baseline");
const Kernels kBaselineKernels = kTable;

}  // namespace micronet
