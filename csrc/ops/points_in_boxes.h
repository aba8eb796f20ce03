// Which box holds a point, and how many points a box holds.
#pragma once

#include <cstdint>

#include "include/executor.h"
#include "include/points_in_boxes_math.h"

namespace perception {

template <typename T>
struct PointsAndBoxes {
  const T* points;  // (num_points, point_columns): x y z, then whatever else
  const T* boxes;   // (num_boxes, box_columns): centre x y z, length width height, yaw, then whatever else
  int64_t num_points;
  int64_t point_columns;
  int64_t num_boxes;
  int64_t box_columns;
};

// `prepared` is room for num_boxes boxes.
//   first (num_points): the first box that holds each point, -1 for none
template <typename T>
void points_in_boxes(const Executor& executor, const PointsAndBoxes<T>& input, int64_t* first, SolidBox* prepared);

//   counts (num_boxes): points in each box
template <typename T>
void count_points_in_boxes(const Executor& executor, const PointsAndBoxes<T>& input, int64_t* counts,
                           SolidBox* prepared);

}  // namespace perception
