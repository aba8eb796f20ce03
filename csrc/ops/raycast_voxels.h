// The first occupied voxel on each ray, and the voxels that rays reach.
#pragma once

#include <cstdint>

#include "include/executor.h"
#include "include/raycast_voxels_math.h"

namespace perception {

template <typename T>
struct RaycastInput {
  const T* origins;      // (num_rays, 3) x y z, metres
  const T* directions;   // (num_rays, 3), of any length
  const bool* occupied;  // (cells), x fastest
  int64_t num_rays;
  RayGrid<T> grid;

  int64_t num_cells() const { return grid.count[0] * grid.count[1] * grid.count[2]; }
};

// Bytes that raycast_voxels needs besides its outputs, for a grid of count[0] x count[1] x count[2] cells along x, y,
// z; `mark`: with `reached`.
int64_t raycast_workspace(const int64_t* count, bool mark);

//   cells (num_rays): number of the first occupied cell, -1 for none
//   distances (num_rays): metres to where the ray enters it, infinite for none
//   reached (cells): whether a ray passes or hits each cell; null: not asked for
template <typename T>
void raycast_voxels(const Executor& executor, const RaycastInput<T>& input, int64_t* cells, T* distances, bool* reached,
                    void* workspace);

}  // namespace perception
