// Multi-scale deformable attention: each query of each head adds up values at a few places of every level.
#pragma once

#include <cstdint>

#include "include/executor.h"
#include "include/ms_deform_attn_math.h"

namespace perception {

// output[b, q, h] = sum over levels and points, in that order, of weight * the value at the place, interpolated between
// four pixels; pixels outside count as 0.
//   value (samples, num_values, heads, channels), locations (samples, queries, heads, levels, points, 2),
//   weights (samples, queries, heads, levels, points), output (samples, queries, heads, channels)
template <typename T>
void ms_deform_attn(const Executor& executor, const DeformSizes& sizes, const T* value, const T* locations,
                    const T* weights, T* output);

template <typename T>
struct DeformAttentionGradients {
  T* value;
  T* locations;
  T* weights;
};

// The CPU kernel adds up in one order. On CUDA the gradient of `value` is added up as threads come, so that its last
// bits vary from run to run.
template <typename T>
void ms_deform_attn_backward(const Executor& executor, const DeformSizes& sizes, const T* gradient, const T* value,
                             const T* locations, const T* weights, const DeformAttentionGradients<T>& gradients);

}  // namespace perception
