#include "cuda/launch.cuh"
#include "cuda/upright_boxes.cuh"
#include "ops/box_iou_rotated.h"

namespace perception {
namespace {

// One thread per pair: neighbours read neighbouring boxes of b, column by column, and write neighbouring results.
template <typename T>
__global__ void iou_pairs(UprightBoxes<T> a, UprightBoxes<T> b, T* iou) {
  for (int64_t pair = first_item(); pair < a.count * b.count; pair += item_stride()) {
    const UprightBox<T> box = a[pair / b.count];
    const int64_t other = pair % b.count;
    iou[pair] = b.is_near(box, other) ? overlap(box, b[other]) : T(0);
  }
}

}  // namespace

template <typename T>
void box_iou_rotated(const Executor& executor, const BoxPairs& pairs, const T* boxes_a, const T* boxes_b, T* iou,
                     T* workspace) {
  const int64_t items = pairs.num_a * pairs.num_b;
  if (items == 0) return;
  const UprightBoxes<T> a = prepare_boxes(executor, boxes_a, pairs.num_a, pairs.columns, pairs.volume, workspace);
  const UprightBoxes<T> b = prepare_boxes(executor, boxes_b, pairs.num_b, pairs.columns, pairs.volume,
                                          workspace + pairs.num_a * UprightBox<T>::kFields);
  iou_pairs<<<blocks_for(items), kThreads, 0, stream_of(executor)>>>(a, b, iou);
  check_cuda(cudaGetLastError(), "box_iou_rotated");
}

#define INSTANTIATE(T) template void box_iou_rotated<T>(const Executor&, const BoxPairs&, const T*, const T*, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
