#include "cuda/launch.cuh"
#include "ops/bev_pool.h"

namespace perception {
namespace {

constexpr int kWarp = 32;

// One thread per (cell, channel): neighbours read neighbouring channels, and each sum has one order.
template <typename T>
__global__ void pool_cells(BevPoolSizes sizes, const T* depth, const T* features, const int64_t* points,
                           const int64_t* pixels, const int64_t* offsets, T* bev) {
  for (int64_t item = first_item(); item < sizes.num_cells * sizes.channels; item += item_stride()) {
    const int64_t cell = item / sizes.channels;
    const int64_t channel = item % sizes.channels;
    T sum = 0;
    for (int64_t i = offsets[cell]; i < offsets[cell + 1]; ++i) {
      sum += depth[points[i]] * features[pixels[i] * sizes.channels + channel];
    }
    bev[item] = sum;
  }
}

// One thread per (pixel, channel) walks the pixel's ray.
template <typename T>
__global__ void features_backward(BevPoolSizes sizes, const T* gradient, const T* depth, const int64_t* cells,
                                  T* features_gradient) {
  const int64_t items = sizes.num_views * sizes.num_pixels * sizes.channels;
  for (int64_t item = first_item(); item < items; item += item_stride()) {
    const int64_t pixel = item / sizes.channels;
    const int64_t channel = item % sizes.channels;
    T sum = 0;
    for (int64_t bin = 0; bin < sizes.num_bins; ++bin) {
      const int64_t point = frustum_point(sizes, pixel, bin);
      if (cells[point] >= 0) sum += depth[point] * gradient[cells[point] * sizes.channels + channel];
    }
    features_gradient[item] = sum;
  }
}

// One warp per frustum point adds up the channels; all lanes of a warp have the same point and so the same path.
template <typename T>
__global__ void depth_backward(BevPoolSizes sizes, const T* gradient, const T* features, const int64_t* cells,
                               T* depth_gradient) {
  const int lane = threadIdx.x % kWarp;
  const int64_t num_points = sizes.num_views * sizes.num_bins * sizes.num_pixels;
  for (int64_t point = first_item() / kWarp; point < num_points; point += item_stride() / kWarp) {
    const int64_t view = point / (sizes.num_bins * sizes.num_pixels);
    const int64_t pixel = view * sizes.num_pixels + point % sizes.num_pixels;
    const int64_t cell = cells[point];
    T sum = 0;
    for (int64_t c = lane; cell >= 0 && c < sizes.channels; c += kWarp) {
      sum += gradient[cell * sizes.channels + c] * features[pixel * sizes.channels + c];
    }
    for (int offset = kWarp / 2; offset > 0; offset /= 2) sum += __shfl_down_sync(0xFFFFFFFFu, sum, offset);
    if (lane == 0) depth_gradient[point] = sum;
  }
}

}  // namespace

template <typename T>
void bev_pool(const Executor& executor, const BevPoolSizes& sizes, const T* depth, const T* features,
              const int64_t* points, const int64_t* pixels, const int64_t* offsets, T* bev) {
  const int64_t items = sizes.num_cells * sizes.channels;
  if (items == 0) return;
  pool_cells<<<blocks_for(items), kThreads, 0, stream_of(executor)>>>(sizes, depth, features, points, pixels, offsets,
                                                                      bev);
  check_cuda(cudaGetLastError(), "bev_pool");
}

template <typename T>
void bev_pool_backward(const Executor& executor, const BevPoolSizes& sizes, const T* gradient, const T* depth,
                       const T* features, const int64_t* cells, T* depth_gradient, T* features_gradient) {
  const cudaStream_t stream = stream_of(executor);
  const int64_t num_points = sizes.num_views * sizes.num_bins * sizes.num_pixels;
  const int64_t items = sizes.num_views * sizes.num_pixels * sizes.channels;
  if (num_points > 0) {
    depth_backward<<<blocks_for(num_points * kWarp), kThreads, 0, stream>>>(sizes, gradient, features, cells,
                                                                            depth_gradient);
    check_cuda(cudaGetLastError(), "bev_pool_backward: depth");
  }
  if (items > 0) {
    features_backward<<<blocks_for(items), kThreads, 0, stream>>>(sizes, gradient, depth, cells, features_gradient);
    check_cuda(cudaGetLastError(), "bev_pool_backward: features");
  }
}

#define INSTANTIATE(T)                                                                                                \
  template void bev_pool<T>(const Executor&, const BevPoolSizes&, const T*, const T*, const int64_t*, const int64_t*, \
                            const int64_t*, T*);                                                                      \
  template void bev_pool_backward<T>(const Executor&, const BevPoolSizes&, const T*, const T*, const T*,              \
                                     const int64_t*, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
