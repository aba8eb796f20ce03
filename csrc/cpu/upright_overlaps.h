// One upright box against many.
#pragma once

#include <algorithm>

#include "include/executor.h"
#include "include/upright_boxes.h"
#include "include/vectorize.h"

namespace perception {

template <typename T>
UprightBoxes<T> prepare_boxes(const Executor& executor, const T* boxes, int64_t count, int64_t columns, bool volume,
                              T* fields) {
  constexpr int64_t kBoxesPerTask = 512;
  const UprightBoxes<T> prepared{fields, count};
  executor.parallel_for(count, kBoxesPerTask, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) prepared.set(i, upright_box(boxes + i * columns, volume));
  });
  return prepared;
}

// Calls write(from, to, overlaps of `box` with boxes from to `to`) for stretches of [begin, end); the overlaps are null
// where all boxes of the stretch are far away.
template <typename T, typename Write>
PERCEPTION_INLINE void overlaps(const UprightBox<T>& box, const UprightBoxes<T>& boxes, int64_t begin, int64_t end,
                                const Write& write) {
  constexpr int64_t kStretch = 64;
  T stretch[kStretch];
  for (int64_t from = begin; from < end; from += kStretch) {
    const int64_t to = std::min(from + kStretch, end);
    int num_near = 0;
    for (int64_t i = from; i < to; ++i) num_near += boxes.is_near(box, i) ? 1 : 0;
    if (num_near == 0) {
      write(from, to, nullptr);
      continue;
    }
    for (int64_t i = from; i < to; ++i) stretch[i - from] = overlap(box, boxes[i]);
    write(from, to, stretch);
  }
}

}  // namespace perception
