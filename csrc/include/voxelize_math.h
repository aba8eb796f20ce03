// Points to voxel keys and back, element by element.
#pragma once

#include <cstdint>

#include "include/exact_quotient.h"
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
// before anything is made a whole number of them. Without a branch, so that loops over points vectorise.
template <typename T>
PERCEPTION_HOST_DEVICE int64_t voxel_key(const VoxelGrid<T>& grid, T x, T y, T z, int64_t sample) {
  const T place[3] = {(x - grid.lower[0]) / grid.cell[0], (y - grid.lower[1]) / grid.cell[1],
                      (z - grid.lower[2]) / grid.cell[2]};
  int64_t key = sample, inside = 1;
  for (int axis = 2; axis >= 0; --axis) {
    const int64_t within = (place[axis] >= T(0) ? 1 : 0) & (place[axis] < static_cast<T>(grid.count[axis]) ? 1 : 0);
    key = key * grid.count[axis] + static_cast<int64_t>(within != 0 ? place[axis] : T(0));
    inside &= within;
  }
  return inside != 0 ? key : -1;
}

// Writes (sample, z, y, x); `count` is as in VoxelGrid.
PERCEPTION_HOST_DEVICE void voxel_coords(const int64_t* count, int64_t key, int64_t* coords) {
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t rest = key < (int64_t{1} << 53) ? exact_quotient(key, count[axis]) : key / count[axis];
    coords[3 - axis] = key - rest * count[axis];
    key = rest;
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
