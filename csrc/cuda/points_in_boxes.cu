#include "cuda/launch.cuh"
#include "ops/points_in_boxes.h"

namespace perception {
namespace {

constexpr int kWarp = 32;

template <typename T>
__global__ void prepare_boxes(PointsAndBoxes<T> input, SolidBox* prepared) {
  for (int64_t m = first_item(); m < input.num_boxes; m += item_stride()) {
    prepared[m] = solid_box(input.boxes + m * input.box_columns);
  }
}

// One thread per point; all threads of a warp read the same box.
template <typename T>
__global__ void find_first(PointsAndBoxes<T> input, const SolidBox* boxes, int64_t* first) {
  for (int64_t i = first_item(); i < input.num_points; i += item_stride()) {
    const T* const point = input.points + i * input.point_columns;
    const double x = point[0], y = point[1], z = point[2];
    int64_t found = -1;
    for (int64_t m = 0; m < input.num_boxes && found < 0; ++m) {
      if (holds(boxes[m], x, y, z)) found = m;
    }
    first[i] = found;
  }
}

// One thread per point; a warp adds up its points for each box, and whole numbers add up in any order.
template <typename T>
__global__ void count_held(PointsAndBoxes<T> input, const SolidBox* boxes, unsigned long long* counts) {
  const int64_t rounds = (input.num_points + item_stride() - 1) / item_stride();
  for (int64_t round = 0; round < rounds; ++round) {  // the same for all threads, so that warps stay whole
    const int64_t i = first_item() + round * item_stride();
    const bool exists = i < input.num_points;
    const T* const point = input.points + (exists ? i : 0) * input.point_columns;
    const double x = point[0], y = point[1], z = point[2];
    for (int64_t m = 0; m < input.num_boxes; ++m) {
      const unsigned held = __ballot_sync(0xFFFFFFFFu, exists && holds(boxes[m], x, y, z));
      if (held != 0 && threadIdx.x % kWarp == 0) atomicAdd(counts + m, static_cast<unsigned long long>(__popc(held)));
    }
  }
}

template <typename T>
const SolidBox* prepare(const Executor& executor, const PointsAndBoxes<T>& input, void* workspace) {
  SolidBox* const prepared = static_cast<SolidBox*>(workspace);
  if (input.num_boxes == 0) return prepared;
  prepare_boxes<<<blocks_for(input.num_boxes), kThreads, 0, stream_of(executor)>>>(input, prepared);
  check_cuda(cudaGetLastError(), "points_in_boxes: boxes");
  return prepared;
}

}  // namespace

int64_t points_in_boxes_workspace(int64_t num_boxes) { return num_boxes * static_cast<int64_t>(sizeof(SolidBox)); }

template <typename T>
void points_in_boxes(const Executor& executor, const PointsAndBoxes<T>& input, int64_t* first, void* workspace) {
  if (input.num_points == 0) return;
  const SolidBox* const boxes = prepare(executor, input, workspace);
  find_first<<<blocks_for(input.num_points), kThreads, 0, stream_of(executor)>>>(input, boxes, first);
  check_cuda(cudaGetLastError(), "points_in_boxes");
}

template <typename T>
void count_points_in_boxes(const Executor& executor, const PointsAndBoxes<T>& input, int64_t* counts, void* workspace) {
  if (input.num_boxes == 0) return;
  const cudaStream_t stream = stream_of(executor);
  const size_t bytes = static_cast<size_t>(input.num_boxes) * sizeof(int64_t);
  check_cuda(cudaMemsetAsync(counts, 0, bytes, stream), "count_points_in_boxes: clear");
  if (input.num_points == 0) return;
  const SolidBox* const boxes = prepare(executor, input, workspace);
  count_held<<<blocks_for(input.num_points), kThreads, 0, stream>>>(input, boxes,
                                                                    reinterpret_cast<unsigned long long*>(counts));
  check_cuda(cudaGetLastError(), "count_points_in_boxes");
}

#define INSTANTIATE(T)                                                                          \
  template void points_in_boxes<T>(const Executor&, const PointsAndBoxes<T>&, int64_t*, void*); \
  template void count_points_in_boxes<T>(const Executor&, const PointsAndBoxes<T>&, int64_t*, void*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
