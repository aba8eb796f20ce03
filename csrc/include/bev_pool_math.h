// How the frustum points of all cameras are laid out.
#pragma once

#include <cstdint>

#include "include/host_device.h"

namespace perception {

struct BevPoolSizes {
  int64_t num_views;   // samples x cameras
  int64_t num_bins;    // depth bins
  int64_t num_pixels;  // rows x columns of one view
  int64_t channels;
  int64_t num_cells;  // samples x rows x columns of the BEV
};

// The number in depth (views, bins, pixels) of the point at depth bin `bin` on the ray of `pixel`, which counts over
// (views, pixels) as the features do.
PERCEPTION_HOST_DEVICE int64_t frustum_point(const BevPoolSizes& sizes, int64_t pixel, int64_t bin) {
  return (pixel / sizes.num_pixels * sizes.num_bins + bin) * sizes.num_pixels + pixel % sizes.num_pixels;
}

}  // namespace perception
