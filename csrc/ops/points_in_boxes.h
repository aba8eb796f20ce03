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

constexpr int64_t kMostBoxes = int64_t{1} << 25;  // must not be reached, so that lists of boxes keep 32-bit numbers

// Bytes that both functions need besides their output.
int64_t points_in_boxes_workspace(int64_t num_boxes);

//   first (num_points): the first box that holds each point, -1 for none
template <typename T>
void points_in_boxes(const Executor& executor, const PointsAndBoxes<T>& input, int64_t* first, void* workspace);

//   counts (num_boxes): points in each box
template <typename T>
void count_points_in_boxes(const Executor& executor, const PointsAndBoxes<T>& input, int64_t* counts, void* workspace);

}  // namespace perception
