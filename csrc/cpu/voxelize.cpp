#include "ops/voxelize.h"

#include <algorithm>

namespace perception {
namespace {

constexpr int64_t kPointsPerTask = 4096;
constexpr int64_t kVoxelsPerTask = 1024;
constexpr int64_t kPrefetchAhead = 16;  // points; hides the memory latency of the hash table

struct Slot {
  int64_t key = -1;  // free
  int64_t voxel;     // -1: left out
};

// Numbers voxels in the order of their first points: keys in `point2voxel` become numbers, and the voxels' keys go to
// `coords`, one per row of four. One thread, as each number depends on all points before.
int64_t number_voxels(int64_t num_points, const int64_t* batch_index, int64_t max_voxels, int64_t* point2voxel,
                      int64_t* coords, Slot* table) {
  const int64_t capacity = table_capacity(num_points);
  std::fill(table, table + capacity, Slot{});
  int64_t num_voxels = 0;
  int64_t sample = -1;
  int64_t first_of_sample = 0;
  for (int64_t i = 0; i < num_points; ++i) {
    if (i + kPrefetchAhead < num_points) {
      __builtin_prefetch(table + first_slot(point2voxel[i + kPrefetchAhead], capacity), 1);
    }
    const int64_t key = point2voxel[i];
    if (key < 0) continue;
    if (batch_index[i] != sample) {
      sample = batch_index[i];
      first_of_sample = num_voxels;
    }
    int64_t at = first_slot(key, capacity);
    while (table[at].key >= 0 && table[at].key != key) at = (at + 1) & (capacity - 1);
    if (table[at].key < 0) {
      const bool full = max_voxels >= 0 && num_voxels - first_of_sample >= max_voxels;
      table[at] = {key, full ? -1 : num_voxels};
      if (!full) coords[4 * num_voxels++] = key;
    }
    point2voxel[i] = table[at].voxel;
  }
  return num_voxels;
}

}  // namespace

int64_t assign_voxels_workspace(int64_t num_points) {
  return table_capacity(num_points) * static_cast<int64_t>(sizeof(Slot));
}

template <typename T>
int64_t assign_voxels(const Executor& executor, const VoxelizeInput<T>& input, int64_t* point2voxel, int64_t* coords,
                      void* workspace) {
  executor.parallel_for(input.num_points, kPointsPerTask, [=, &input](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      point2voxel[i] = voxel_key(input.grid, input.points + i * input.columns, input.batch_index[i]);
    }
  });
  const int64_t num_voxels = number_voxels(input.num_points, input.batch_index, input.max_voxels, point2voxel, coords,
                                           static_cast<Slot*>(workspace));
  executor.parallel_for(num_voxels, kPointsPerTask, [=, &input](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) voxel_coords(input.grid, coords[4 * v], coords + 4 * v);
  });
  return num_voxels;
}

template <typename T>
void gather_voxels(const Executor& executor, GatherSizes sizes, const T* points, const int64_t* order,
                   const int64_t* offsets, T* voxels, int64_t* num_points) {
  executor.parallel_for(sizes.num_voxels, kVoxelsPerTask, [=](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      const int64_t count = std::min(offsets[v + 1] - offsets[v], sizes.max_points);
      T* out = voxels + v * sizes.max_points * sizes.columns;
      for (int64_t i = 0; i < count; ++i) {
        const T* const point = points + order[offsets[v] + i] * sizes.columns;
        out = std::copy(point, point + sizes.columns, out);
      }
      std::fill(out, voxels + (v + 1) * sizes.max_points * sizes.columns, T(0));
      num_points[v] = count;
    }
  });
}

#define INSTANTIATE(T)                                                                                    \
  template int64_t assign_voxels<T>(const Executor&, const VoxelizeInput<T>&, int64_t*, int64_t*, void*); \
  template void gather_voxels<T>(const Executor&, GatherSizes, const T*, const int64_t*, const int64_t*, T*, int64_t*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
