// Dot products of codes by VNNI: four products of bytes are added at a time. All other loops are
// those of avx512, which its instructions leave as they are.

#include "cpu/isa/vector_avx512.h"
// The vector first, then what is built on it.
#include "cpu/isa/dots_avx512.h"
// The loops need both above them.
#include "cpu/isa/kernels_avx512.h"
#include "cpu/isa/loops_conv.h"
#include "cpu/isa/loops_sparse.h"

namespace micronet {

void dot_tile_vnni(const ConvTile& tile) { dot_tile(tile); }

void sparse_tile_vnni(const SparseTile& tile) { sparse_tile(tile); }

}  // namespace micronet
