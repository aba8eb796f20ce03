// Marks per-element maths that both the host and the device compile.
#pragma once

#ifdef __CUDACC__
#define PERCEPTION_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define PERCEPTION_HOST_DEVICE inline __attribute__((always_inline))
#endif
