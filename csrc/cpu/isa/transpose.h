// A transposition word by word, for instruction sets whose registers are no help with it.
#ifndef MICRONET_CPU_ISA_TRANSPOSE_H_
#define MICRONET_CPU_ISA_TRANSPOSE_H_

#include <cstdint>
#include <cstring>

namespace micronet {
namespace {

// Sixteen rows of sixteen words to columns; from one to the next are so many bytes.
inline void transpose(const uint8_t* in, int64_t in_stride, uint8_t* out, int64_t out_stride) {
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j)
      std::memcpy(out + j * out_stride + 4 * i, in + i * in_stride + 4 * j, 4);
  }
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_CPU_ISA_TRANSPOSE_H_
