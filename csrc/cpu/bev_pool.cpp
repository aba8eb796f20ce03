#include "ops/bev_pool.h"

#include <algorithm>

#include "include/vectorize.h"

namespace perception {
namespace {

constexpr int64_t kCellsPerTask = 256;
constexpr int64_t kPixelsPerTask = 16;
constexpr int64_t kLanes = 16;
constexpr int64_t kAhead = 6;  // points whose features are on their way while one is added

template <typename T>
PERCEPTION_INLINE void add_scaled(T scale, const T* row, int64_t channels, T* sum) {
  for (int64_t c = 0; c < channels; ++c) sum[c] += scale * row[c];
}

// Sums in kLanes partial sums, whatever the width of the vectors: the same bits with every instruction set.
template <typename T>
PERCEPTION_INLINE T dot(const T* a, const T* b, int64_t count) {
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  }
  for (int64_t lane = 0; i < count; ++i, ++lane) lanes[lane] += a[i] * b[i];
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

template <typename T>
PERCEPTION_MULTIVERSION void pool_cell(const T* depth, const T* features, const int64_t* points, const int64_t* pixels,
                                       int64_t count, int64_t num_after, int64_t channels, T* bev) {
  constexpr int64_t kLine = 64 / sizeof(T);
  std::fill(bev, bev + channels, T(0));
  for (int64_t i = 0; i < count; ++i) {
    if (i + kAhead < count + num_after) {
      const T* const next = features + pixels[i + kAhead] * channels;
      for (int64_t c = 0; c < channels; c += kLine) __builtin_prefetch(next + c);
      __builtin_prefetch(depth + points[i + kAhead]);
    }
    add_scaled(depth[points[i]], features + pixels[i] * channels, channels, bev);
  }
}

template <typename T>
PERCEPTION_MULTIVERSION void ray_gradient(const BevPoolSizes& sizes, int64_t pixel, const T* gradient, const T* depth,
                                          const T* features, const int64_t* cells, T* depth_gradient,
                                          T* features_gradient) {
  const T* const feature = features + pixel * sizes.channels;
  T* const feature_gradient = features_gradient + pixel * sizes.channels;
  std::fill(feature_gradient, feature_gradient + sizes.channels, T(0));
  for (int64_t bin = 0; bin < sizes.num_bins; ++bin) {
    const int64_t point = frustum_point(sizes, pixel, bin);
    if (cells[point] < 0) {
      depth_gradient[point] = T(0);
      continue;
    }
    const T* const cell_gradient = gradient + cells[point] * sizes.channels;
    depth_gradient[point] = dot(cell_gradient, feature, sizes.channels);
    add_scaled(depth[point], cell_gradient, sizes.channels, feature_gradient);
  }
}

}  // namespace

template <typename T>
void bev_pool(const Executor& executor, const BevPoolSizes& sizes, const T* depth, const T* features,
              const int64_t* points, const int64_t* pixels, const int64_t* offsets, T* bev) {
  executor.parallel_for(sizes.num_cells, kCellsPerTask, [=](int64_t begin, int64_t end) {
    for (int64_t cell = begin; cell < end; ++cell) {
      const int64_t first = offsets[cell];
      pool_cell(depth, features, points + first, pixels + first, offsets[cell + 1] - first,
                offsets[sizes.num_cells] - offsets[cell + 1], sizes.channels, bev + cell * sizes.channels);
    }
  });
}

template <typename T>
void bev_pool_backward(const Executor& executor, const BevPoolSizes& sizes, const T* gradient, const T* depth,
                       const T* features, const int64_t* cells, T* depth_gradient, T* features_gradient) {
  executor.parallel_for(sizes.num_views * sizes.num_pixels, kPixelsPerTask, [=](int64_t begin, int64_t end) {
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      ray_gradient(sizes, pixel, gradient, depth, features, cells, depth_gradient, features_gradient);
    }
  });
}

#define INSTANTIATE(T)                                                                                                \
  template void bev_pool<T>(const Executor&, const BevPoolSizes&, const T*, const T*, const int64_t*, const int64_t*, \
                            const int64_t*, T*);                                                                      \
  template void bev_pool_backward<T>(const Executor&, const BevPoolSizes&, const T*, const T*, const T*,              \
                                     const int64_t*, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
