// What extensions of AVX-512 do better than the loops of avx512, function by function.
#ifndef MICRONET_CPU_ISA_KERNELS_AVX512_H_
#define MICRONET_CPU_ISA_KERNELS_AVX512_H_

#include "cpu/kernels.h"

namespace micronet {

void dot_tile_vnni(const ConvTile& tile);
void sparse_tile_vnni(const SparseTile& tile);
void dot_tile_amx(const ConvTile& tile);

}  // namespace micronet

#endif  // MICRONET_CPU_ISA_KERNELS_AVX512_H_
