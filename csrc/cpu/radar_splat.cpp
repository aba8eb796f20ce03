#include "ops/radar_splat.h"

#include <algorithm>
#include <vector>

#include "cpu/weighted_rows.h"
#include "include/vectorize.h"

namespace perception {
namespace {

constexpr int64_t kReturnsPerTask = 16;
constexpr int64_t kRowsPerTask = 8;

// A part of one sample's BEV: rows first .. last - 1.
template <typename T>
struct RowBand {
  int64_t first;
  int64_t last;
  T* bev;              // (last - first, columns, channels)
  CellMotion* motion;  // (last - first, columns)
};

template <typename T>
PERCEPTION_MULTIVERSION void splat_return(const BevGrid& grid, int64_t channels, const RadarFootprint& footprint,
                                          const double* velocity, const T* feature, const RowBand<T>& band) {
  const Footprint& shape = footprint.shape;
  const int64_t last_column = std::min(shape.last[0], grid.columns - 1);
  const int64_t last_row = std::min(shape.last[1], band.last - 1);
  for (int64_t row = std::max(shape.first[1], band.first); row <= last_row; ++row) {
    for (int64_t column = std::max<int64_t>(shape.first[0], 0); column <= last_column; ++column) {
      const double weight = shape.density(column, row) * footprint.normalizer;
      if (weight == 0) continue;
      const int64_t cell = (row - band.first) * grid.columns + column;
      add_scaled(feature, channels, static_cast<T>(weight), band.bev + cell * channels);
      band.motion[cell].add(weight, velocity);
    }
  }
}

template <typename T>
PERCEPTION_MULTIVERSION void gather_return(const BevGrid& grid, int64_t channels, const RadarFootprint& footprint,
                                           const T* gradient, T* feature_gradient) {
  const Footprint& shape = footprint.shape;
  const int64_t last_column = std::min(shape.last[0], grid.columns - 1);
  const int64_t last_row = std::min(shape.last[1], grid.rows - 1);
  for (int64_t row = std::max<int64_t>(shape.first[1], 0); row <= last_row; ++row) {
    for (int64_t column = std::max<int64_t>(shape.first[0], 0); column <= last_column; ++column) {
      const double weight = shape.density(column, row) * footprint.normalizer;
      if (weight == 0) continue;
      add_scaled(gradient + (row * grid.columns + column) * channels, channels, static_cast<T>(weight),
                 feature_gradient);
    }
  }
}

template <typename T>
void write_motion(const std::vector<CellMotion>& cells, T* motion) {
  for (const CellMotion& cell : cells) {
    *motion++ = static_cast<T>(cell.density);
    *motion++ = static_cast<T>(cell.mean[0]);
    *motion++ = static_cast<T>(cell.mean[1]);
    *motion++ = static_cast<T>(cell.spread());
  }
}

}  // namespace

void radar_footprints(const Executor& executor, const BevGrid& grid, const RadarReturns& returns,
                      RadarFootprint* footprints) {
  executor.parallel_for(returns.count, kReturnsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      RadarFootprint footprint{};
      if (radar_footprint(grid, returns.positions + 2 * i, returns.covariances + 4 * i, &footprint.shape)) {
        footprint.normalizer = footprint.shape.normalizer();
      }
      footprints[i] = footprint;
    }
  });
}

// A thread owns rows and walks all returns of their sample in order, so that a cell's sum has one order.
template <typename T>
void radar_splat(const Executor& executor, const BevGrid& grid, RadarSplatSizes sizes, const RadarFootprint* footprints,
                 const double* velocities, const int64_t* order, const int64_t* offsets, const T* features, T* bev,
                 T* motion) {
  executor.parallel_for(sizes.samples * grid.rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t sample = begin / grid.rows;
      const int64_t first = begin - sample * grid.rows;
      const int64_t last = std::min(end - sample * grid.rows, grid.rows);
      const int64_t first_cell = begin * grid.columns;
      std::vector<CellMotion> cells((last - first) * grid.columns);
      const RowBand<T> band{first, last, bev + first_cell * sizes.channels, cells.data()};
      std::fill_n(band.bev, static_cast<int64_t>(cells.size()) * sizes.channels, T(0));
      for (int64_t i = offsets[sample]; i < offsets[sample + 1]; ++i) {
        const RadarFootprint& footprint = footprints[order[i]];
        if (footprint.normalizer == 0) continue;
        splat_return(grid, sizes.channels, footprint, velocities + 2 * order[i], features + order[i] * sizes.channels,
                     band);
      }
      write_motion(cells, motion + first_cell * kMotionChannels);
      begin = sample * grid.rows + last;
    }
  });
}

template <typename T>
void radar_splat_backward(const Executor& executor, const BevGrid& grid, RadarSplatSizes sizes, int64_t num_returns,
                          const RadarFootprint* footprints, const int64_t* batch_index, const T* gradient,
                          T* features_gradient) {
  executor.parallel_for(num_returns, kReturnsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* const row = features_gradient + i * sizes.channels;
      std::fill_n(row, sizes.channels, T(0));
      if (batch_index[i] < 0 || batch_index[i] >= sizes.samples || footprints[i].normalizer == 0) continue;
      const int64_t first_cell = batch_index[i] * grid.rows * grid.columns;
      gather_return(grid, sizes.channels, footprints[i], gradient + first_cell * sizes.channels, row);
    }
  });
}

#define INSTANTIATE(T)                                                                                                 \
  template void radar_splat<T>(const Executor&, const BevGrid&, RadarSplatSizes, const RadarFootprint*, const double*, \
                               const int64_t*, const int64_t*, const T*, T*, T*);                                      \
  template void radar_splat_backward<T>(const Executor&, const BevGrid&, RadarSplatSizes, int64_t,                     \
                                        const RadarFootprint*, const int64_t*, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
