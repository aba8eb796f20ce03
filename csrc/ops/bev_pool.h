// Lift and splat in one step: each BEV cell adds up the features of the pixels that see it, weighted by their depth
// probabilities; the frustum of weighted features is never stored.
#pragma once

#include <cstdint>

#include "include/bev_pool_math.h"
#include "include/executor.h"

namespace perception {

// bev[cell] = sum over i in offsets[cell] .. offsets[cell + 1) of depth[points[i]] * features[pixels[i]], in that
// order.
//   depth (views, bins, pixels), features (views, pixels, channels), bev (cells, channels)
template <typename T>
void bev_pool(const Executor& executor, const BevPoolSizes& sizes, const T* depth, const T* features,
              const int64_t* points, const int64_t* pixels, const int64_t* offsets, T* bev);

// Each pixel walks its ray and gathers from the cells on it, so that nothing is added to from two sides.
//   cells (views, bins, pixels): the row of `gradient` (cells, channels) that each frustum point fell into, -1 for none
template <typename T>
void bev_pool_backward(const Executor& executor, const BevPoolSizes& sizes, const T* gradient, const T* depth,
                       const T* features, const int64_t* cells, T* depth_gradient, T* features_gradient);

}  // namespace perception
