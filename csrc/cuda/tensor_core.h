// Products by tensor cores, and copies to shared memory that a thread does not wait for; sm_80 on.
// On the host both are csrc/tests/emulator/tensor_core.h.
#ifndef MICRONET_CUDA_TENSOR_CORE_H_
#define MICRONET_CUDA_TENSOR_CORE_H_

#include "cuda/launch.h"

namespace micronet {

// sums += a b of a warp, a [16, 32] unsigned and b [32, 8] signed bytes, four a register. Lane l =
// 4g + t has of a the rows g (registers 0, 2) and g + 8 (1, 3), columns 4t.. (0, 1) and 16 + 4t..
// (2, 3); of b the column g, rows 4t.. and 16 + 4t..; of the sums the rows g (0, 1) and g + 8 (2,
// 3), columns 2t and 2t + 1. PTX ISA: mma.m16n8k32.
__device__ __forceinline__ void multiply_add(const unsigned (&a)[4], unsigned b0, unsigned b1,
                                             int (&sums)[4]) {
#ifdef __CUDACC__
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  cuda_on_host::multiply_add(a, b0, b1, sums);
#endif
}

// Starts a copy of 4, 8 or 16 bytes of device memory to shared memory, both aligned to them.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* from) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "what the instruction moves");
#ifdef __CUDACC__
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  if (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(kBytes)
                 : "memory");
  }
#else
  cuda_on_host::copy_async(shared, from, kBytes);
#endif
}

// Makes a group of the copies that this thread has started since the last.
__device__ __forceinline__ void commit_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  cuda_on_host::commit_copies();
#endif
}

// Waits until all but the last kPending groups of this thread have arrived; others see them after a
// barrier.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#else
  cuda_on_host::wait_for_copies(kPending);
#endif
}

}  // namespace micronet

#endif  // MICRONET_CUDA_TENSOR_CORE_H_
