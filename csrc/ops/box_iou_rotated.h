// Intersection over union of upright boxes, every pair, from above or in space.
#pragma once

#include <cstdint>

#include "include/executor.h"
#include "include/upright_boxes.h"

namespace perception {

struct BoxPairs {
  int64_t num_a;
  int64_t num_b;
  int64_t columns;  // of a box: centre x y z, length width height, yaw, then whatever else
  bool volume;      // in space; else the footprints
};

// Numbers that box_iou_rotated needs besides its output.
inline int64_t box_iou_rotated_workspace(const BoxPairs& pairs) {
  return (pairs.num_a + pairs.num_b) * UprightBox<float>::kFields;
}

//   boxes_a (num_a, columns), boxes_b (num_b, columns), iou (num_a, num_b)
template <typename T>
void box_iou_rotated(const Executor& executor, const BoxPairs& pairs, const T* boxes_a, const T* boxes_b, T* iou,
                     T* workspace);

}  // namespace perception
