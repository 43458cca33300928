// What tiles do better than vectors.
#ifndef MICRONET_CPU_ISA_KERNELS_AVX512AMX_H_
#define MICRONET_CPU_ISA_KERNELS_AVX512AMX_H_

#include "cpu/kernels.h"

namespace micronet {

void dot_tile_amx(const ConvTile& tile);

}  // namespace micronet

#endif  // MICRONET_CPU_ISA_KERNELS_AVX512AMX_H_
