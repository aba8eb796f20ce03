#include "cuda/launch.cuh"
#include "ops/view_sample.h"

namespace perception {
namespace {

// One thread per (sample, point, channel): neighbours read neighbouring channels, and each sum has one order.
template <typename T>
__global__ void sample_points(ViewSampleSizes sizes, const __grid_constant__ ViewLevels<const T> levels, ViewHits hits,
                              T* output) {
  const int64_t items = sizes.samples * sizes.num_points * sizes.channels;
  for (int64_t item = first_item(); item < items; item += item_stride()) {
    const int64_t point = item / sizes.channels;
    const int64_t channel = item % sizes.channels;
    const int64_t sample = point / sizes.num_points;
    T sum = 0;
    for (int64_t view = sample * sizes.num_views; view < (sample + 1) * sizes.num_views; ++view) {
      const int64_t hit = view * sizes.num_points + point % sizes.num_points;
      if (!hits.valid[hit]) continue;
      const T scale = sample_weight<T>(sizes, hits.counts[point]);
      for (int64_t level = 0; level < sizes.num_levels; ++level) {
        const ViewCorners<T> corners = view_corners<T>(sizes, level, hits.pixels + 2 * hit);
        const int64_t first_cell = view * sizes.rows[level] * sizes.columns[level];
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          const T value = levels.data[level][(first_cell + corners.cell[corner]) * sizes.channels + channel];
          sum += scale * corners.weight[corner] * value;
        }
      }
    }
    output[item] = sum;
  }
}

// One thread per (sample, point, channel) adds to what it read from.
template <typename T>
__global__ void sample_points_backward(ViewSampleSizes sizes, const T* gradient, ViewHits hits,
                                       const __grid_constant__ ViewLevels<T> levels) {
  const int64_t items = sizes.samples * sizes.num_points * sizes.channels;
  for (int64_t item = first_item(); item < items; item += item_stride()) {
    const int64_t point = item / sizes.channels;
    const int64_t channel = item % sizes.channels;
    const int64_t sample = point / sizes.num_points;
    for (int64_t view = sample * sizes.num_views; view < (sample + 1) * sizes.num_views; ++view) {
      const int64_t hit = view * sizes.num_points + point % sizes.num_points;
      if (!hits.valid[hit]) continue;
      const T scaled = sample_weight<T>(sizes, hits.counts[point]) * gradient[item];
      for (int64_t level = 0; level < sizes.num_levels; ++level) {
        const ViewCorners<T> corners = view_corners<T>(sizes, level, hits.pixels + 2 * hit);
        const int64_t first_cell = view * sizes.rows[level] * sizes.columns[level];
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          atomicAdd(levels.data[level] + (first_cell + corners.cell[corner]) * sizes.channels + channel,
                    scaled * corners.weight[corner]);
        }
      }
    }
  }
}

}  // namespace

template <typename T>
void view_sample(const Executor& executor, const ViewSampleSizes& sizes, const ViewLevels<const T>& levels,
                 const ViewHits& hits, T* output) {
  const int64_t items = sizes.samples * sizes.num_points * sizes.channels;
  if (items == 0) return;
  sample_points<<<blocks_for(items), kThreads, 0, stream_of(executor)>>>(sizes, levels, hits, output);
  check_cuda(cudaGetLastError(), "view_sample");
}

template <typename T>
void view_sample_backward(const Executor& executor, const ViewSampleSizes& sizes, const T* gradient,
                          const ViewHits& hits, const ViewLevels<T>& levels_gradient) {
  const cudaStream_t stream = stream_of(executor);
  for (int64_t level = 0; level < sizes.num_levels; ++level) {
    const int64_t cells = sizes.samples * sizes.num_views * sizes.rows[level] * sizes.columns[level];
    check_cuda(cudaMemsetAsync(levels_gradient.data[level], 0, cells * sizes.channels * sizeof(T), stream),
               "view_sample_backward: zeros");
  }
  const int64_t items = sizes.samples * sizes.num_points * sizes.channels;
  if (items == 0) return;
  sample_points_backward<<<blocks_for(items), kThreads, 0, stream>>>(sizes, gradient, hits, levels_gradient);
  check_cuda(cudaGetLastError(), "view_sample_backward");
}

#define INSTANTIATE(T)                                                                                               \
  template void view_sample<T>(const Executor&, const ViewSampleSizes&, const ViewLevels<const T>&, const ViewHits&, \
                               T*);                                                                                  \
  template void view_sample_backward<T>(const Executor&, const ViewSampleSizes&, const T*, const ViewHits&,          \
                                        const ViewLevels<T>&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
