#include "cuda/launch.cuh"
#include "ops/raycast_voxels.h"

namespace perception {
namespace {

// One thread per ray. Rays may note the same cell at the same time; they write the same.
template <typename T>
__global__ void cast_rays(RaycastInput<T> input, int64_t* cells, T* distances, bool* reached) {
  const T infinity = static_cast<T>(HUGE_VALF);
  for (int64_t number = first_item(); number < input.num_rays; number += item_stride()) {
    const Ray<T> ray = start_ray(input.grid, input.origins + 3 * number, input.directions + 3 * number);
    T taken_x = 0, taken_y = 0, taken_z = 0, distance = ray.cell < 0 ? infinity : ray.entry;
    int64_t cell = ray.cell;
    while (cell >= 0) {
      if (reached != nullptr) reached[cell] = true;
      if (input.occupied[cell]) break;
      const T x = ray.first[0] + taken_x * ray.period[0];
      const T y = ray.first[1] + taken_y * ray.period[1];
      const T z = ray.first[2] + taken_z * ray.period[2];
      bool out;
      if (x <= y && x <= z) {
        out = taken_x >= ray.last[0];
        taken_x += 1;
        distance = x;
        cell += ray.step[0];
      } else if (y <= z) {
        out = taken_y >= ray.last[1];
        taken_y += 1;
        distance = y;
        cell += ray.step[1];
      } else {
        out = taken_z >= ray.last[2];
        taken_z += 1;
        distance = z;
        cell += ray.step[2];
      }
      if (out || distance > input.grid.max_range) {
        cell = -1;
        distance = infinity;
      }
    }
    cells[number] = cell;
    distances[number] = distance;
  }
}

}  // namespace

int64_t raycast_workspace(const int64_t*, bool) { return 0; }

template <typename T>
void raycast_voxels(const Executor& executor, const RaycastInput<T>& input, int64_t* cells, T* distances, bool* reached,
                    void*) {
  const cudaStream_t stream = stream_of(executor);
  if (reached != nullptr) {
    check_cuda(cudaMemsetAsync(reached, 0, static_cast<size_t>(input.num_cells()), stream), "raycast_voxels: clear");
  }
  if (input.num_rays == 0) return;
  cast_rays<<<blocks_for(input.num_rays), kThreads, 0, stream>>>(input, cells, distances, reached);
  check_cuda(cudaGetLastError(), "raycast_voxels");
}

#define INSTANTIATE(T) \
  template void raycast_voxels<T>(const Executor&, const RaycastInput<T>&, int64_t*, T*, bool*, void*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
