// Where multi-scale deformable attention looks, and the slopes of its samples.
#pragma once

#include <cmath>
#include <cstdint>

#include "include/host_device.h"

namespace perception {

constexpr int kMaxDeformLevels = 16;

struct DeformSizes {
  int64_t samples;
  int64_t num_values;  // pixels of all levels
  int64_t heads;
  int64_t channels;  // of one head
  int64_t num_queries;
  int64_t num_levels;
  int64_t num_points;              // of one level
  int64_t rows[kMaxDeformLevels];  // of each level
  int64_t columns[kMaxDeformLevels];
  int64_t starts[kMaxDeformLevels];  // first value of each level
};

// The four pixels around a place: top left, top right, bottom left, bottom right.
template <typename T>
struct DeformCorners {
  T x;               // of the place, from the left pixels' centres
  T y;               // from the top pixels' centres
  int64_t pixel[4];  // within the level; means nothing where not `inside`
  bool inside[4];

  PERCEPTION_HOST_DEVICE T weight(int corner) const { return (corner & 1 ? x : 1 - x) * (corner & 2 ? y : 1 - y); }
};

// Finds the pixels around `location`, (x, y) in [0, 1] across the picture's edges. Says false where none is inside, and
// for NaN and infinity, as they fail a comparison before anything is made a whole number of them.
template <typename T>
PERCEPTION_HOST_DEVICE bool deform_corners(const T* location, int64_t rows, int64_t columns,
                                           DeformCorners<T>* corners) {
  const T x = location[0] * static_cast<T>(columns) - T(0.5);
  const T y = location[1] * static_cast<T>(rows) - T(0.5);
  if (!(x > T(-1) && y > T(-1) && x < static_cast<T>(columns) && y < static_cast<T>(rows))) return false;
  const T left = std::floor(x);
  const T top = std::floor(y);
  corners->x = x - left;
  corners->y = y - top;
  const int64_t column = static_cast<int64_t>(left);
  const int64_t row = static_cast<int64_t>(top);
  // Of the two columns and rows, one at least is inside; written without branches, as hardly any of them could be
  // foreseen.
  const bool columns_inside[2] = {column >= 0, column + 1 < columns};
  const bool rows_inside[2] = {row >= 0, row + 1 < rows};
  const int64_t first = row * columns + column;
  corners->pixel[0] = first;
  corners->pixel[1] = first + 1;
  corners->pixel[2] = first + columns;
  corners->pixel[3] = first + columns + 1;
  corners->inside[0] = columns_inside[0] & rows_inside[0];
  corners->inside[1] = columns_inside[1] & rows_inside[0];
  corners->inside[2] = columns_inside[0] & rows_inside[1];
  corners->inside[3] = columns_inside[1] & rows_inside[1];
  return true;
}

// Gradients of one sample, from what the output's gradient gives with each corner's values (0 for those outside).
template <typename T>
struct DeformGradients {
  T weight;
  T x;  // of the location
  T y;
};

template <typename T>
PERCEPTION_HOST_DEVICE DeformGradients<T> deform_gradients(const DeformCorners<T>& corners, const T* products, T weight,
                                                           int64_t rows, int64_t columns) {
  T sampled = 0;
  for (int corner = 0; corner < 4; ++corner) sampled += corners.weight(corner) * products[corner];
  const T along_x = (1 - corners.y) * (products[1] - products[0]) + corners.y * (products[3] - products[2]);
  const T along_y = (1 - corners.x) * (products[2] - products[0]) + corners.x * (products[3] - products[1]);
  return {sampled, weight * along_x * static_cast<T>(columns), weight * along_y * static_cast<T>(rows)};
}

}  // namespace perception
