#include "ops/view_sample.h"

#include <algorithm>
#include <vector>

#include "cpu/weighted_rows.h"
#include "include/vectorize.h"

namespace perception {
namespace {

constexpr int64_t kPointsPerTask = 64;

// The mean at point `point`, which counts over (samples, points). `rows` has room for four per view and level: all
// cells to read are listed, and asked for, before they are added up.
template <typename T>
PERCEPTION_MULTIVERSION void sample_point(const ViewSampleSizes& sizes, const ViewLevels<const T>& levels,
                                          const ViewHits& hits, int64_t point, WeightedRow<T>* rows, T* output) {
  const int64_t sample = point / sizes.num_points;
  int64_t count = 0;
  for (int64_t view = sample * sizes.num_views; view < (sample + 1) * sizes.num_views; ++view) {
    const int64_t hit = view * sizes.num_points + point % sizes.num_points;
    if (!hits.valid[hit]) continue;
    const T scale = sample_weight<T>(sizes, hits.counts[point]);
    for (int64_t level = 0; level < sizes.num_levels; ++level) {
      const ViewCorners<T> corners = view_corners<T>(sizes, level, hits.pixels + 2 * hit);
      const int64_t first_cell = view * sizes.rows[level] * sizes.columns[level];
      for (int corner = 0; corner < 4; ++corner) {
        const T* const row = levels.data[level] + (first_cell + corners.cell[corner]) * sizes.channels;
        prefetch(row, sizes.channels);
        rows[count++] = {row, scale * corners.weight[corner]};
      }
    }
  }
  add_rows(rows, count, sizes.channels, output);
}

// One level of one view: everything it adds to lies there, so that no two tasks meet. `view` counts over (samples,
// views).
template <typename T>
PERCEPTION_MULTIVERSION void map_backward(const ViewSampleSizes& sizes, int64_t view, int64_t level, const T* gradient,
                                          const ViewHits& hits, T* map) {
  const int64_t first_point = view / sizes.num_views * sizes.num_points;
  for (int64_t i = 0; i < sizes.num_points; ++i) {
    const int64_t hit = view * sizes.num_points + i;
    if (!hits.valid[hit]) continue;
    const ViewCorners<T> corners = view_corners<T>(sizes, level, hits.pixels + 2 * hit);
    const T scale = sample_weight<T>(sizes, hits.counts[first_point + i]);
    const T* const point_gradient = gradient + (first_point + i) * sizes.channels;
    for (int corner = 0; corner < 4; ++corner) {
      add_scaled(point_gradient, sizes.channels, scale * corners.weight[corner],
                 map + corners.cell[corner] * sizes.channels);
    }
  }
}

}  // namespace

template <typename T>
void view_sample(const Executor& executor, const ViewSampleSizes& sizes, const ViewLevels<const T>& levels,
                 const ViewHits& hits, T* output) {
  executor.parallel_for(sizes.samples * sizes.num_points, kPointsPerTask, [&](int64_t begin, int64_t end) {
    std::vector<WeightedRow<T>> rows(4 * sizes.num_views * sizes.num_levels);
    for (int64_t point = begin; point < end; ++point) {
      sample_point(sizes, levels, hits, point, rows.data(), output + point * sizes.channels);
    }
  });
}

template <typename T>
void view_sample_backward(const Executor& executor, const ViewSampleSizes& sizes, const T* gradient,
                          const ViewHits& hits, const ViewLevels<T>& levels_gradient) {
  executor.parallel_for(sizes.samples * sizes.num_views * sizes.num_levels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t level = task % sizes.num_levels;
      const int64_t view = task / sizes.num_levels;
      const int64_t map_size = sizes.rows[level] * sizes.columns[level] * sizes.channels;
      T* const map = levels_gradient.data[level] + view * map_size;
      std::fill_n(map, map_size, T(0));
      map_backward(sizes, view, level, gradient, hits, map);
    }
  });
}

#define INSTANTIATE(T)                                                                                               \
  template void view_sample<T>(const Executor&, const ViewSampleSizes&, const ViewLevels<const T>&, const ViewHits&, \
                               T*);                                                                                  \
  template void view_sample_backward<T>(const Executor&, const ViewSampleSizes&, const T*, const ViewHits&,          \
                                        const ViewLevels<T>&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
