// Backward projection: each point takes the mean of the image features at its pixels, over the cameras that see it and
// the levels.
#pragma once

#include <cstdint>

#include "include/executor.h"
#include "include/view_sample_math.h"

namespace perception {

// Where the points of each sample lie in each view.
struct ViewHits {
  const float* pixels;    // (samples, views, points, 2) u v
  const bool* valid;      // (samples, views, points)
  const int64_t* counts;  // (samples, points), how many views are valid
};

// output (samples, points, channels); 0 for a point that no camera sees.
template <typename T>
void view_sample(const Executor& executor, const ViewSampleSizes& sizes, const ViewLevels<const T>& levels,
                 const ViewHits& hits, T* output);

// The CPU kernel adds up in one order. On CUDA gradients are added up as threads come, so that the last bits vary from
// run to run.
template <typename T>
void view_sample_backward(const Executor& executor, const ViewSampleSizes& sizes, const T* gradient,
                          const ViewHits& hits, const ViewLevels<T>& levels_gradient);

}  // namespace perception
