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

// Reduces the rows order[offsets[s] .. offsets[s + 1]) in that order, so that results do not depend on threads. Empty
// segments give 0. `largest` is read and written for the maximum alone: the row that gave it, -1 where empty.
//   features (num_rows, channels), reduced and largest (num_segments, channels), counts (num_segments)
template <typename T>
void scatter_reduce(const Executor& executor, Reduce reduce, ScatterSizes sizes, const T* features,
                    const int64_t* order, const int64_t* offsets, T* reduced, int64_t* counts, int64_t* largest);

// Rows with an index outside [0, num_segments) receive 0.
template <typename T>
void scatter_reduce_backward(const Executor& executor, Reduce reduce, ScatterSizes sizes, const T* gradient,
                             const int64_t* index, const int64_t* counts, const int64_t* largest, T* features_gradient);

}  // namespace perception
