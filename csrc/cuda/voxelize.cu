#include <cub/device/device_scan.cuh>

#include "cuda/launch.cuh"
#include "ops/group_rows.h"
#include "ops/voxelize.h"

namespace perception {
namespace {

using Word = unsigned long long;  // what 64-bit atomics take
constexpr Word kFree = ~Word{0};

// The table maps a voxel's key to its lowest point. Which slot a key gets depends on timing; that point does not.
struct Buffers {
  Word* keys;          // (capacity)
  Word* first_points;  // (capacity)
  int64_t* found;      // (num_points + 1): voxels up to and with point i - 1
  int64_t* kept;       // (num_points + 1): the same, of voxels within the limit
  char* scan;
  size_t scan_bytes = 0;
  int64_t capacity;
  int64_t total;

  Buffers(void* base, int64_t num_points) : capacity(table_capacity(num_points)) {
    check_cuda(cub::DeviceScan::InclusiveSum(nullptr, scan_bytes, static_cast<int64_t*>(nullptr),
                                             static_cast<int64_t*>(nullptr), num_points + 1),
               "voxelize: size of the scan");
    Workspace workspace(base);
    keys = workspace.take<Word>(capacity);
    first_points = workspace.take<Word>(capacity);
    found = workspace.take<int64_t>(num_points + 1);
    kept = workspace.take<int64_t>(num_points + 1);
    scan = workspace.take<char>(static_cast<int64_t>(scan_bytes));
    total = workspace.bytes();
  }
};

// Leaves each point's slot in point2voxel, -1 outside the grid.
template <typename T>
__global__ void insert_points(VoxelizeInput<T> input, Word* keys, Word* first_points, int64_t capacity,
                              int64_t* point2voxel) {
  for (int64_t i = first_item(); i < input.num_points; i += item_stride()) {
    const T* const point = input.points + i * input.columns;
    const int64_t key = voxel_key(input.grid, point[0], point[1], point[2], input.batch_index[i]);
    if (key < 0) {
      point2voxel[i] = -1;
      continue;
    }
    int64_t at = first_slot(key, capacity);
    while (true) {
      const Word previous = atomicCAS(keys + at, kFree, static_cast<Word>(key));
      if (previous == kFree || previous == static_cast<Word>(key)) break;
      at = (at + 1) & (capacity - 1);
    }
    atomicMin(first_points + at, static_cast<Word>(i));
    point2voxel[i] = at;
  }
}

// found[i + 1] = 1 where point i is the first of its voxel; summed up afterwards.
__global__ void mark_first_points(int64_t num_points, const int64_t* slots, const Word* first_points, int64_t* found) {
  for (int64_t i = first_item(); i <= num_points; i += item_stride()) {
    found[i] = i > 0 && slots[i - 1] >= 0 && first_points[slots[i - 1]] == static_cast<Word>(i - 1);
  }
}

// Number of points of earlier samples than point i's, by bisection in the rising batch index.
__device__ int64_t sample_start(const int64_t* batch_index, int64_t i) {
  int64_t low = 0, high = i;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (batch_index[middle] < batch_index[i]) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// kept[i + 1] = 1 where point i opens one of its sample's first max_voxels voxels; summed up afterwards.
__global__ void mark_kept(int64_t num_points, const int64_t* batch_index, int64_t max_voxels, const int64_t* found,
                          int64_t* kept) {
  for (int64_t i = first_item(); i <= num_points; i += item_stride()) {
    const bool opens = i > 0 && found[i] > found[i - 1];
    kept[i] = opens && (max_voxels < 0 || found[i - 1] - found[sample_start(batch_index, i - 1)] < max_voxels);
  }
}

// Turns slots into voxel numbers; the first point of each voxel writes its key.
__global__ void number_points(int64_t num_points, const Word* keys, const Word* first_points, const int64_t* kept,
                              int64_t* point2voxel, int64_t* voxel_keys) {
  for (int64_t i = first_item(); i < num_points; i += item_stride()) {
    const int64_t slot = point2voxel[i];
    if (slot < 0) continue;
    const int64_t first = static_cast<int64_t>(first_points[slot]);
    const int64_t voxel = kept[first + 1] > kept[first] ? kept[first] : -1;
    if (first == i && voxel >= 0) voxel_keys[voxel] = static_cast<int64_t>(keys[slot]);
    point2voxel[i] = voxel;
  }
}

template <typename T>
__global__ void write_coords(VoxelGrid<T> grid, const int64_t* keys, int64_t num_voxels, int64_t* coords) {
  for (int64_t v = first_item(); v < num_voxels; v += item_stride()) voxel_coords(grid.count, keys[v], coords + 4 * v);
}

// The points of each voxel, side by side.
struct Groups {
  int64_t* order;    // (num_points)
  int64_t* offsets;  // (num_voxels + 1)
  char* sort;
  int64_t total;

  Groups(void* base, GatherSizes sizes) {
    Workspace workspace(base);
    order = workspace.take<int64_t>(sizes.num_points);
    offsets = workspace.take<int64_t>(sizes.num_voxels + 1);
    sort = workspace.take<char>(group_rows_workspace(sizes.num_points));
    total = workspace.bytes();
  }
};

template <typename T>
__global__ void gather_rows(GatherSizes sizes, const T* points, const int64_t* order, const int64_t* offsets, T* voxels,
                            int64_t* counts) {
  const int64_t row_size = sizes.max_points * sizes.columns;
  for (int64_t item = first_item(); item < sizes.num_voxels * row_size; item += item_stride()) {
    const int64_t voxel = item / row_size;
    const int64_t in_row = item % row_size;
    const int64_t place = in_row / sizes.columns;
    const int64_t size = offsets[voxel + 1] - offsets[voxel];
    const int64_t count = size < sizes.max_points ? size : sizes.max_points;
    voxels[item] =
        place < count ? points[order[offsets[voxel] + place] * sizes.columns + in_row % sizes.columns] : T(0);
    if (in_row == 0) counts[voxel] = count;
  }
}

}  // namespace

template <typename T>
int64_t assign_voxels_workspace(const VoxelizeInput<T>& input) {
  return input.num_points == 0 ? 0 : Buffers(nullptr, input.num_points).total;
}

template <typename T>
int64_t assign_voxels(const Executor& executor, const VoxelizeInput<T>& input, int64_t* point2voxel, int64_t* keys,
                      void* workspace) {
  const int64_t n = input.num_points;
  if (n == 0) return 0;
  const cudaStream_t stream = stream_of(executor);
  Buffers b(workspace, n);
  const size_t table_bytes = static_cast<size_t>(b.capacity) * sizeof(Word);
  check_cuda(cudaMemsetAsync(b.keys, 0xFF, table_bytes, stream), "voxelize: clear keys");
  check_cuda(cudaMemsetAsync(b.first_points, 0xFF, table_bytes, stream), "voxelize: clear points");
  insert_points<<<blocks_for(n), kThreads, 0, stream>>>(input, b.keys, b.first_points, b.capacity, point2voxel);
  mark_first_points<<<blocks_for(n + 1), kThreads, 0, stream>>>(n, point2voxel, b.first_points, b.found);
  check_cuda(cudaGetLastError(), "voxelize: insert");
  check_cuda(cub::DeviceScan::InclusiveSum(b.scan, b.scan_bytes, b.found, b.found, n + 1, stream), "voxelize: scan");
  mark_kept<<<blocks_for(n + 1), kThreads, 0, stream>>>(n, input.batch_index, input.max_voxels, b.found, b.kept);
  check_cuda(cudaGetLastError(), "voxelize: limit");
  check_cuda(cub::DeviceScan::InclusiveSum(b.scan, b.scan_bytes, b.kept, b.kept, n + 1, stream), "voxelize: scan");
  number_points<<<blocks_for(n), kThreads, 0, stream>>>(n, b.keys, b.first_points, b.kept, point2voxel, keys);
  check_cuda(cudaGetLastError(), "voxelize: number");
  int64_t num_voxels = 0;
  check_cuda(cudaMemcpyAsync(&num_voxels, b.kept + n, sizeof(num_voxels), cudaMemcpyDeviceToHost, stream),
             "voxelize: count");
  check_cuda(cudaStreamSynchronize(stream), "voxelize");
  return num_voxels;
}

template <typename T>
void locate_voxels(const Executor& executor, const VoxelGrid<T>& grid, const int64_t* keys, int64_t num_voxels,
                   int64_t* coords) {
  if (num_voxels == 0) return;
  write_coords<<<blocks_for(num_voxels), kThreads, 0, stream_of(executor)>>>(grid, keys, num_voxels, coords);
  check_cuda(cudaGetLastError(), "voxelize: locate");
}

int64_t gather_voxels_workspace(GatherSizes sizes) { return Groups(nullptr, sizes).total; }

template <typename T>
void gather_voxels(const Executor& executor, GatherSizes sizes, const T* points, const int64_t* point2voxel, T* voxels,
                   int64_t* counts, void* workspace) {
  const int64_t items = sizes.num_voxels * sizes.max_points * sizes.columns;
  if (items == 0) return;
  const Groups groups(workspace, sizes);
  group_rows(executor, point2voxel, sizes.num_points, sizes.num_voxels, groups.order, groups.offsets, groups.sort);
  gather_rows<<<blocks_for(items), kThreads, 0, stream_of(executor)>>>(sizes, points, groups.order, groups.offsets,
                                                                       voxels, counts);
  check_cuda(cudaGetLastError(), "voxelize: gather");
}

#define INSTANTIATE(T)                                                                                     \
  template int64_t assign_voxels_workspace<T>(const VoxelizeInput<T>&);                                    \
  template int64_t assign_voxels<T>(const Executor&, const VoxelizeInput<T>&, int64_t*, int64_t*, void*);  \
  template void locate_voxels<T>(const Executor&, const VoxelGrid<T>&, const int64_t*, int64_t, int64_t*); \
  template void gather_voxels<T>(const Executor&, GatherSizes, const T*, const int64_t*, T*, int64_t*, void*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
