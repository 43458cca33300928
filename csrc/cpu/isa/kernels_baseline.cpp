// The inner loops for baseline; compiled with that instruction set allowed.

#include "cpu/isa/vector_baseline.h"
// The vector first, then what is built on it.
#include "cpu/isa/dots_baseline.h"
// The loops need both above them.
#include "cpu/isa/table.h"

namespace micronet {

constexpr Kernels kTable = table("baseline");
const Kernels kBaselineKernels = kTable;

}  // namespace micronet
