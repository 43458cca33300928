// The inner loops for baseline; compiled with that instruction set allowed.

#include "vector_baseline.h"
// The loops need the vector above them.
#include "table.h"

namespace micronet {

constexpr Kernels kTable = table("baseline");
const Kernels kBaselineKernels = kTable;

}  // namespace micronet
