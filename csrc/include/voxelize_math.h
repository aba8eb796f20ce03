// Points to voxel keys and back, element by element.
#pragma once

#include <cstdint>

#include "include/host_device.h"

namespace perception {

// Axes in x, y, z order, metres.
template <typename T>
struct VoxelGrid {
  T lower[3];
  T cell[3];
  int64_t count[3];
};

// One number per (sample, z, y, x), or -1 for a point outside; NaN and infinity are outside, as they fail a comparison
// before anything is made a whole number of them.
template <typename T>
PERCEPTION_HOST_DEVICE int64_t voxel_key(const VoxelGrid<T>& grid, const T* point, int64_t sample) {
  int64_t cell[3];
  for (int axis = 0; axis < 3; ++axis) {
    const T scaled = (point[axis] - grid.lower[axis]) / grid.cell[axis];
    if (!(scaled >= T(0) && scaled < static_cast<T>(grid.count[axis]))) return -1;
    cell[axis] = static_cast<int64_t>(scaled);
  }
  return ((sample * grid.count[2] + cell[2]) * grid.count[1] + cell[1]) * grid.count[0] + cell[0];
}

// Writes (sample, z, y, x).
template <typename T>
PERCEPTION_HOST_DEVICE void voxel_coords(const VoxelGrid<T>& grid, int64_t key, int64_t* coords) {
  for (int axis = 0; axis < 3; ++axis) {
    coords[3 - axis] = key % grid.count[axis];
    key /= grid.count[axis];
  }
  coords[0] = key;
}

// Slots of a hash table that stays at most half full: a power of two.
PERCEPTION_HOST_DEVICE int64_t table_capacity(int64_t num_points) {
  int64_t capacity = 16;
  while (capacity < 2 * num_points) capacity *= 2;
  return capacity;
}

// The slot to look at first; Fibonacci hashing spreads neighbouring keys.
PERCEPTION_HOST_DEVICE int64_t first_slot(int64_t key, int64_t capacity) {
  const uint64_t mixed = static_cast<uint64_t>(key) * 0x9E3779B97F4A7C15ull;
  return static_cast<int64_t>((mixed >> 20) & static_cast<uint64_t>(capacity - 1));
}

}  // namespace perception
