// What the compiler is told to inline, and what not.
#ifndef MICRONET_CPU_ISA_INLINING_H_
#define MICRONET_CPU_ISA_INLINING_H_

// Functions that only pay where the compiler sees through them.
#define MICRONET_INLINE __attribute__((always_inline)) inline
#define MICRONET_LAMBDA __attribute__((always_inline))
// Functions that a row or the end of a loop calls once: inlined into every loop, they take longer
// to compile than the loops.
#define MICRONET_OUTLINE __attribute__((noinline)) inline

#endif  // MICRONET_CPU_ISA_INLINING_H_
