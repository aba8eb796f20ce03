// Radar returns onto the BEV: each spreads its features over the cells of its footprint, weights adding up to one, and
// each cell learns how what fell into it moves.
#pragma once

#include <cstdint>

#include "include/executor.h"
#include "include/radar_splat_math.h"

namespace perception {

struct RadarReturns {
  int64_t count;
  const double* positions;    // (returns, 2) x y
  const double* covariances;  // (returns, 2, 2)
  const double* velocities;   // (returns, 2)
};

// A footprint with its normalizer; 0 for a return that reaches no cell.
struct RadarFootprint {
  Footprint shape;
  double normalizer;
};

constexpr int64_t kMotionChannels = 4;  // density, mean velocity x and y, spread

// Finds the footprint of each return.
void radar_footprints(const Executor& executor, const BevGrid& grid, const RadarReturns& returns,
                      RadarFootprint* footprints);

struct RadarSplatSizes {
  int64_t samples;
  int64_t channels;
};

// Adds up the returns order[offsets[sample] .. offsets[sample + 1]) of each sample in that order.
//   features (returns, channels), bev (samples, rows, columns, channels), motion (samples, rows, columns, 4)
template <typename T>
void radar_splat(const Executor& executor, const BevGrid& grid, RadarSplatSizes sizes, const RadarFootprint* footprints,
                 const double* velocities, const int64_t* order, const int64_t* offsets, const T* features, T* bev,
                 T* motion);

// Each return gathers from the cells of its footprint. Returns with a sample outside [0, samples) receive 0.
template <typename T>
void radar_splat_backward(const Executor& executor, const BevGrid& grid, RadarSplatSizes sizes, int64_t num_returns,
                          const RadarFootprint* footprints, const int64_t* batch_index, const T* gradient,
                          T* features_gradient);

}  // namespace perception
