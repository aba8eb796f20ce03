// Where a pixel of the picture lies on the feature maps made from it.
#pragma once

#include <cmath>
#include <cstdint>

#include "include/host_device.h"

namespace perception {

constexpr int kMaxViewLevels = 16;

struct ViewSampleSizes {
  int64_t samples;
  int64_t num_views;   // of one sample
  int64_t num_points;  // of one sample
  int64_t channels;
  int64_t num_levels;
  int64_t rows[kMaxViewLevels];  // of each level
  int64_t columns[kMaxViewLevels];
  int64_t image_rows;  // of the picture that pixels are counted on
  int64_t image_columns;
};

// The feature maps of all levels, each (samples, views, rows, columns, channels).
template <typename T>
struct ViewLevels {
  T* data[kMaxViewLevels];
};

// The four cells around a place and their weights.
template <typename T>
struct ViewCorners {
  int64_t cell[4];
  T weight[4];
};

// The cell below a place on an axis of `cells` cells, the next one, and how far between them the place is. Places
// beyond the centres of the outermost cells count as lying there; NaN counts as 0, so that no cell is ever out of
// range.
template <typename T>
PERCEPTION_HOST_DEVICE void between_cells(float pixel, int64_t pixels, int64_t cells, int64_t* near, T* fraction) {
  const T place = (static_cast<T>(pixel) + T(0.5)) * (static_cast<T>(cells) / static_cast<T>(pixels)) - T(0.5);
  const T last = static_cast<T>(cells - 1);
  const T held = place > T(0) ? (place < last ? place : last) : T(0);
  const T below = std::floor(held);
  near[0] = static_cast<int64_t>(below);
  near[1] = near[0] + 1 < cells ? near[0] + 1 : near[0];
  *fraction = held - below;
}

template <typename T>
PERCEPTION_HOST_DEVICE ViewCorners<T> view_corners(const ViewSampleSizes& sizes, int64_t level, const float* pixel) {
  const int64_t columns = sizes.columns[level];
  int64_t column[2], row[2];
  T x, y;
  between_cells(pixel[0], sizes.image_columns, columns, column, &x);
  between_cells(pixel[1], sizes.image_rows, sizes.rows[level], row, &y);
  return {{row[0] * columns + column[0], row[0] * columns + column[1], row[1] * columns + column[0],
           row[1] * columns + column[1]},
          {(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y}};
}

// The weight of each sample of a point that `count` cameras see.
template <typename T>
PERCEPTION_HOST_DEVICE T sample_weight(const ViewSampleSizes& sizes, int64_t count) {
  return T(1) / static_cast<T>(count * sizes.num_levels);
}

}  // namespace perception
