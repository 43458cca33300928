// The inner loops for avx512; compiled with that instruction set allowed.

#include "cpu/isa/vector_avx512.h"
// The vector first, then what is built on it.
#include "cpu/isa/dots_avx512.h"
// The loops need both above them.
#include "cpu/isa/table.h"

namespace micronet {

constexpr Kernels kTable = table("avx512");
const Kernels kAvx512Kernels = kTable;

}  // namespace micronet
