#include "cuda/launch.cuh"
#include "ops/radar_splat.h"

namespace perception {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

__global__ void find_footprints(BevGrid grid, RadarReturns returns, RadarFootprint* footprints) {
  for (int64_t i = first_item(); i < returns.count; i += item_stride()) {
    RadarFootprint footprint{};
    if (radar_footprint(grid, returns.positions + 2 * i, returns.covariances + 4 * i, &footprint.shape)) {
      footprint.normalizer = footprint.shape.normalizer();
    }
    footprints[i] = footprint;
  }
}

__device__ __forceinline__ double weight_in(const RadarFootprint& footprint, int64_t column, int64_t row) {
  const Footprint& shape = footprint.shape;
  if (footprint.normalizer == 0 || column < shape.first[0] || column > shape.last[0] || row < shape.first[1] ||
      row > shape.last[1]) {
    return 0;
  }
  return shape.density(column, row) * footprint.normalizer;
}

// One warp per cell. Its lanes weigh 32 returns at once; those that count are then added one by one, in order, each
// lane taking every 32nd channel. All lanes of a warp have the same cell and so the same path.
template <typename T>
__global__ void splat_cells(BevGrid grid, RadarSplatSizes sizes, const RadarFootprint* footprints,
                            const double* velocities, const int64_t* order, const int64_t* offsets, const T* features,
                            T* bev, T* motion) {
  const int lane = threadIdx.x % kWarp;
  const int64_t num_cells = sizes.samples * grid.rows * grid.columns;
  for (int64_t cell = first_item() / kWarp; cell < num_cells; cell += item_stride() / kWarp) {
    const int64_t column = cell % grid.columns;
    const int64_t row = cell / grid.columns % grid.rows;
    const int64_t sample = cell / (grid.columns * grid.rows);
    T* const output = bev + cell * sizes.channels;
    for (int64_t c = lane; c < sizes.channels; c += kWarp) output[c] = 0;
    CellMotion cell_motion{};
    const int64_t end = offsets[sample + 1];
    for (int64_t begin = offsets[sample]; begin < end; begin += kWarp) {
      const double weight = begin + lane < end ? weight_in(footprints[order[begin + lane]], column, row) : 0;
      for (unsigned left = __ballot_sync(kAllLanes, weight != 0); left != 0; left &= left - 1) {
        const int source = __ffs(static_cast<int>(left)) - 1;
        const double one_weight = __shfl_sync(kAllLanes, weight, source);
        const int64_t one = order[begin + source];
        cell_motion.add(one_weight, velocities + 2 * one);
        for (int64_t c = lane; c < sizes.channels; c += kWarp) {
          output[c] += static_cast<T>(one_weight) * features[one * sizes.channels + c];
        }
      }
    }
    if (lane != 0) continue;
    T* const moved = motion + cell * kMotionChannels;
    moved[0] = static_cast<T>(cell_motion.density);
    moved[1] = static_cast<T>(cell_motion.mean[0]);
    moved[2] = static_cast<T>(cell_motion.mean[1]);
    moved[3] = static_cast<T>(cell_motion.spread());
  }
}

// One warp per return walks its footprint, each lane taking every 32nd channel.
template <typename T>
__global__ void gather_returns(BevGrid grid, RadarSplatSizes sizes, int64_t num_returns,
                               const RadarFootprint* footprints, const int64_t* batch_index, const T* gradient,
                               T* features_gradient) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t i = first_item() / kWarp; i < num_returns; i += item_stride() / kWarp) {
    const RadarFootprint footprint = footprints[i];
    const int64_t sample = batch_index[i];
    const bool counts = sample >= 0 && sample < sizes.samples && footprint.normalizer != 0;
    const int64_t first_row = max(footprint.shape.first[1], int64_t{0});
    const int64_t last_row = min(footprint.shape.last[1], grid.rows - 1);
    const int64_t first_column = max(footprint.shape.first[0], int64_t{0});
    const int64_t last_column = min(footprint.shape.last[0], grid.columns - 1);
    for (int64_t c = lane; c < sizes.channels; c += kWarp) {
      T sum = 0;
      for (int64_t row = first_row; counts && row <= last_row; ++row) {
        for (int64_t column = first_column; column <= last_column; ++column) {
          const T weight = static_cast<T>(footprint.shape.density(column, row) * footprint.normalizer);
          sum += weight * gradient[((sample * grid.rows + row) * grid.columns + column) * sizes.channels + c];
        }
      }
      features_gradient[i * sizes.channels + c] = sum;
    }
  }
}

}  // namespace

void radar_footprints(const Executor& executor, const BevGrid& grid, const RadarReturns& returns,
                      RadarFootprint* footprints) {
  if (returns.count == 0) return;
  find_footprints<<<blocks_for(returns.count), kThreads, 0, stream_of(executor)>>>(grid, returns, footprints);
  check_cuda(cudaGetLastError(), "radar_splat: footprints");
}

template <typename T>
void radar_splat(const Executor& executor, const BevGrid& grid, RadarSplatSizes sizes, const RadarFootprint* footprints,
                 const double* velocities, const int64_t* order, const int64_t* offsets, const T* features, T* bev,
                 T* motion) {
  const int64_t num_cells = sizes.samples * grid.rows * grid.columns;
  if (num_cells == 0) return;
  splat_cells<<<blocks_for(num_cells * kWarp), kThreads, 0, stream_of(executor)>>>(
      grid, sizes, footprints, velocities, order, offsets, features, bev, motion);
  check_cuda(cudaGetLastError(), "radar_splat");
}

template <typename T>
void radar_splat_backward(const Executor& executor, const BevGrid& grid, RadarSplatSizes sizes, int64_t num_returns,
                          const RadarFootprint* footprints, const int64_t* batch_index, const T* gradient,
                          T* features_gradient) {
  if (num_returns * sizes.channels == 0) return;
  gather_returns<<<blocks_for(num_returns * kWarp), kThreads, 0, stream_of(executor)>>>(
      grid, sizes, num_returns, footprints, batch_index, gradient, features_gradient);
  check_cuda(cudaGetLastError(), "radar_splat_backward");
}

#define INSTANTIATE(T)                                                                                                 \
  template void radar_splat<T>(const Executor&, const BevGrid&, RadarSplatSizes, const RadarFootprint*, const double*, \
                               const int64_t*, const int64_t*, const T*, T*, T*);                                      \
  template void radar_splat_backward<T>(const Executor&, const BevGrid&, RadarSplatSizes, int64_t,                     \
                                        const RadarFootprint*, const int64_t*, const T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
