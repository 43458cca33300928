// The inner loops for avx512; compiled with that instruction set allowed.

#include "vector_avx512.h"
// The loops need the vector above them.
#include "table.h"

namespace micronet {

constexpr Kernels kTable = table("avx512");
const Kernels kAvx512Kernels = kTable;

}  // namespace micronet
