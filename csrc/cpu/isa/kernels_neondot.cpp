// The inner loops for neondot; compiled with that instruction set allowed.

#include "cpu/isa/vector_neon.h"
// The vector first, then what is built on it.
#include "cpu/isa/dots_neon.h"
// The loops need both above them.
#include "cpu/isa/table.h"

namespace micronet {

constexpr Kernels kTable = table("neondot");
const Kernels kNeonDotKernels = kTable;

}  // namespace micronet
