#include "ops/box_iou_rotated.h"

#include "cpu/upright_overlaps.h"

namespace perception {
namespace {

constexpr int64_t kPairsPerTask = 16384;

template <typename T>
PERCEPTION_MULTIVERSION void iou_row(const UprightBox<T>& box, const UprightBoxes<T>& others, T* iou) {
  overlaps(box, others, 0, others.count, [&](int64_t begin, int64_t end, const T* found) {
    if (found == nullptr) {
      std::fill(iou + begin, iou + end, T(0));
    } else {
      std::copy(found, found + (end - begin), iou + begin);
    }
  });
}

}  // namespace

template <typename T>
void box_iou_rotated(const Executor& executor, const BoxPairs& pairs, const T* boxes_a, const T* boxes_b, T* iou,
                     T* workspace) {
  const UprightBoxes<T> a = prepare_boxes(executor, boxes_a, pairs.num_a, pairs.columns, pairs.volume, workspace);
  const UprightBoxes<T> b = prepare_boxes(executor, boxes_b, pairs.num_b, pairs.columns, pairs.volume,
                                          workspace + a.count * UprightBox<T>::kFields);
  const int64_t rows_per_task = std::max<int64_t>(1, kPairsPerTask / std::max<int64_t>(1, pairs.num_b));
  executor.parallel_for(pairs.num_a, rows_per_task, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) iou_row(a[i], b, iou + i * pairs.num_b);
  });
}

#define INSTANTIATE(T) template void box_iou_rotated<T>(const Executor&, const BoxPairs&, const T*, const T*, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
