// Where a kernel meets the voxels of a sparse convolution. Axes are in z, y, x order.
#pragma once

#include <cstdint>

#include "include/host_device.h"

namespace perception {

struct SparseGeometry {
  int64_t kernel[3];
  int64_t stride[3];
  int64_t padding[3];
  int64_t dilation[3];
  int64_t in_shape[3];
  int64_t out_shape[3];

  PERCEPTION_HOST_DEVICE int64_t num_offsets() const { return kernel[0] * kernel[1] * kernel[2]; }
};

// Grids have fewer cells and samples lower numbers than these, so that all keys stay below kKeyLimit.
constexpr int64_t kCellLimit = int64_t{1} << 40;
constexpr int64_t kSampleLimit = int64_t{1} << 22;
constexpr int64_t kKeyLimit = int64_t{1} << 62;

// One number per (sample, z, y, x), or -1 for coordinates outside.
PERCEPTION_HOST_DEVICE int64_t cell_key(const int64_t* shape, const int64_t* coords) {
  bool inside = coords[0] >= 0 && coords[0] < kSampleLimit;
  for (int axis = 0; axis < 3; ++axis) inside = inside && coords[axis + 1] >= 0 && coords[axis + 1] < shape[axis];
  return inside ? ((coords[0] * shape[0] + coords[1]) * shape[1] + coords[2]) * shape[2] + coords[3] : -1;
}

// Writes (sample, z, y, x) of a key.
PERCEPTION_HOST_DEVICE void cell_coords(const int64_t* shape, int64_t key, int64_t* coords) {
  for (int axis = 2; axis >= 0; --axis) {
    coords[axis + 1] = key % shape[axis];
    key /= shape[axis];
  }
  coords[0] = key;
}

// Splits the number of a kernel's element into its places along z, y, x.
PERCEPTION_HOST_DEVICE void kernel_place(const SparseGeometry& geometry, int64_t offset, int64_t* place) {
  for (int axis = 2; axis >= 0; --axis) {
    place[axis] = offset % geometry.kernel[axis];
    offset /= geometry.kernel[axis];
  }
}

// Finds the output (sample z y x) that sees the input voxel `coords` through element `offset` of its kernel; says
// whether there is one.
PERCEPTION_HOST_DEVICE bool output_coords(const SparseGeometry& geometry, const int64_t* coords, int64_t offset,
                                          int64_t* output) {
  int64_t place[3];
  kernel_place(geometry, offset, place);
  output[0] = coords[0];
  bool exists = true;
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t shifted = coords[axis + 1] + geometry.padding[axis] - place[axis] * geometry.dilation[axis];
    output[axis + 1] = shifted / geometry.stride[axis];
    exists =
        exists && shifted >= 0 && shifted % geometry.stride[axis] == 0 && output[axis + 1] < geometry.out_shape[axis];
  }
  return exists;
}

// The most outputs that a strided convolution can have.
PERCEPTION_HOST_DEVICE int64_t most_outputs(const SparseGeometry& geometry, int64_t num_voxels) {
  int64_t per_voxel = 1;
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t kernel = geometry.kernel[axis], stride = geometry.stride[axis];
    per_voxel *= geometry.dilation[axis] == 1 ? (kernel + stride - 1) / stride : kernel;
  }
  return per_voxel * num_voxels;
}

// Slots of a hash table that stays at most half full: a power of two.
PERCEPTION_HOST_DEVICE int64_t slots_for(int64_t num_keys) {
  int64_t slots = 16;
  while (slots < 2 * num_keys) slots *= 2;
  return slots;
}

// The slot to look at first. Four cells in a row share a cache line, as a kernel asks for neighbours along x.
PERCEPTION_HOST_DEVICE int64_t home_slot(int64_t key, int64_t slots) {
  const uint64_t mixed = static_cast<uint64_t>(key >> 2) * 0x9E3779B97F4A7C15ull >> 24;
  return static_cast<int64_t>((mixed << 2 | static_cast<uint64_t>(key & 3)) & static_cast<uint64_t>(slots - 1));
}

}  // namespace perception
