// Whether a box holds a point, in float64 whatever the inputs.
#pragma once

#include <cmath>
#include <cstdint>

#include "include/host_device.h"

namespace perception {

struct SolidBox {
  double x, y, z, cos, sin, half_length, half_width, half_height;
};

// `box`: centre x y z, length width height, yaw.
template <typename T>
PERCEPTION_HOST_DEVICE SolidBox solid_box(const T* box) {
  const double half_length = static_cast<double>(box[3]) / 2, half_width = static_cast<double>(box[4]) / 2;
  const double yaw = static_cast<double>(box[6]);
  return {static_cast<double>(box[0]),
          static_cast<double>(box[1]),
          static_cast<double>(box[2]),
          std::cos(yaw),
          std::sin(yaw),
          half_length,
          half_width,
          static_cast<double>(box[5]) / 2};
}

// Faces belong to the box; what is NaN is in no box and holds nothing.
PERCEPTION_HOST_DEVICE bool holds(const SolidBox& box, double px, double py, double pz) {
  const double x = px - box.x, y = py - box.y, z = pz - box.z;
  const double along = x * box.cos + y * box.sin, across = y * box.cos - x * box.sin;
  return (std::fabs(along) <= box.half_length) & (std::fabs(across) <= box.half_width) &
         (std::fabs(z) <= box.half_height);
}

}  // namespace perception
