// Run-time choice of the instruction set for hot loops of the CPU kernels.
#pragma once

// Compiles a function three times (AVX-512, AVX2, baseline x86-64-v2); the loader picks once for the machine. What the
// function calls in its loop must be PERCEPTION_INLINE to be compiled along with it. The build forbids fused
// multiply-add, so all three give the same bits. Compilers without this attribute make the baseline alone.
#ifndef PERCEPTION_MULTIVERSION  // csrc/tests define it as nothing, and compile once per instruction set
#if defined(PERCEPTION_BASELINE_ONLY) || defined(__clang__) || __GNUC__ < 12
#define PERCEPTION_MULTIVERSION
#else
#define PERCEPTION_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
#endif
#define PERCEPTION_INLINE inline __attribute__((always_inline))
