// Points into voxels, numbered in the order of their first points, and the points of each voxel in a padded row.
#pragma once

#include <cstdint>

#include "include/executor.h"
#include "include/voxelize_math.h"

namespace perception {

template <typename T>
struct VoxelizeInput {
  const T* points;             // (num_points, columns): x y z, metres, then whatever else
  const int64_t* batch_index;  // (num_points), not negative, not falling
  int64_t num_points;
  int64_t columns;
  int64_t max_voxels;  // per sample; negative: no limit
  VoxelGrid<T> grid;
};

// Bytes that assign_voxels needs besides its outputs.
template <typename T>
int64_t assign_voxels_workspace(const VoxelizeInput<T>& input);

// Numbers the voxels that hold points by first appearance, sample after sample, and returns how many there are; what
// comes after a sample's first max_voxels is left out. Waits for the device, as the count decides the outputs' size.
//   point2voxel (num_points): -1 outside the grid or left out
//   keys (num_points): one number per voxel, of which the first `count` are written
template <typename T>
int64_t assign_voxels(const Executor& executor, const VoxelizeInput<T>& input, int64_t* point2voxel, int64_t* keys,
                      void* workspace);

// Gives the coordinates of voxels from their keys.
//   coords (num_voxels, 4): sample z y x
template <typename T>
void locate_voxels(const Executor& executor, const VoxelGrid<T>& grid, const int64_t* keys, int64_t num_voxels,
                   int64_t* coords);

struct GatherSizes {
  int64_t num_points;
  int64_t num_voxels;
  int64_t max_points;
  int64_t columns;
};

// Bytes that gather_voxels needs besides its outputs.
int64_t gather_voxels_workspace(GatherSizes sizes);

// Copies the first max_points points of each voxel in their order and fills the rest with 0.
//   points (num_points, columns), point2voxel (num_points)
//   voxels (num_voxels, max_points, columns), counts (num_voxels)
template <typename T>
void gather_voxels(const Executor& executor, GatherSizes sizes, const T* points, const int64_t* point2voxel, T* voxels,
                   int64_t* counts, void* workspace);

}  // namespace perception
