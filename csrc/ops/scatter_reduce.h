// Sum, mean or maximum of the rows of each segment, and the gradient back to the rows.
#pragma once

#include <cstdint>

#include "include/executor.h"
#include "include/scatter_reduce_math.h"

namespace perception {

struct ScatterSizes {
  int64_t num_rows;
  int64_t num_segments;
  int64_t channels;
};

// Bytes that scatter_reduce needs besides its outputs.
int64_t scatter_reduce_workspace(ScatterSizes sizes);

// Reduces the rows of each segment in their order, so that results do not depend on threads. Empty segments give 0.
// `largest` is read and written for the maximum alone: the row that gave it, -1 where empty; there must be fewer than
// 2^31 rows then. Returns the first row whose index is outside [-1, num_segments), or -1; the outputs are then
// undefined. CUDA does not look, as that would stall the device: there such an index counts as -1.
//   features (num_rows, channels), index (num_rows)
//   reduced and largest (num_segments, channels), counts (num_segments)
template <typename T>
int64_t scatter_reduce(const Executor& executor, Reduce reduce, ScatterSizes sizes, const T* features,
                       const int64_t* index, T* reduced, int64_t* counts, int32_t* largest, void* workspace);

// Rows with an index outside [0, num_segments) receive 0.
template <typename T>
void scatter_reduce_backward(const Executor& executor, Reduce reduce, ScatterSizes sizes, const T* gradient,
                             const int64_t* index, const int64_t* counts, const int32_t* largest, T* features_gradient);

}  // namespace perception
