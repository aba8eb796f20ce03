// Included before everything else where the tests are built for x86-64-v3: kernels that look at the machine by
// themselves find no AVX-512 there.
#pragma once

#define __builtin_cpu_supports(feature) (__builtin_strncmp(feature, "avx512", 6) != 0)
