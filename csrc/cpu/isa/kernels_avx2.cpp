// The inner loops for avx2; compiled with that instruction set allowed.

#include "cpu/isa/vector_avx2.h"
// The vector first, then what is built on it.
#include "cpu/isa/dots_avx2.h"
// The loops need both above them.
#include "cpu/isa/table.h"

namespace micronet {

constexpr Kernels kTable = table("avx2");
const Kernels kAvx2Kernels = kTable;

}  // namespace micronet
