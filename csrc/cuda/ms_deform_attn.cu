#include "cuda/launch.cuh"
#include "ops/ms_deform_attn.h"

namespace perception {
namespace {

constexpr int kWarp = 32;

// One thread per (sample, query, head, channel): neighbours read neighbouring channels of the same pixels.
template <typename T>
__global__ void attend(DeformSizes sizes, const T* value, const T* locations, const T* weights, T* output) {
  const int64_t items = sizes.samples * sizes.num_queries * sizes.heads * sizes.channels;
  const int64_t stride = sizes.heads * sizes.channels;
  for (int64_t item = first_item(); item < items; item += item_stride()) {
    const int64_t row = item / sizes.channels;
    const int64_t sample = row / (sizes.num_queries * sizes.heads);
    const T* const head_value = value + sample * sizes.num_values * stride + item % stride;
    int64_t place = row * sizes.num_levels * sizes.num_points;
    T sum = 0;
    for (int64_t level = 0; level < sizes.num_levels; ++level) {
      const T* const level_value = head_value + sizes.starts[level] * stride;
      for (int64_t point = 0; point < sizes.num_points; ++point, ++place) {
        DeformCorners<T> corners;
        if (!deform_corners(locations + 2 * place, sizes.rows[level], sizes.columns[level], &corners)) continue;
        for (int corner = 0; corner < 4; ++corner) {
          if (!corners.inside[corner]) continue;
          sum += corners.weight(corner) * weights[place] * level_value[corners.pixel[corner] * stride];
        }
      }
    }
    output[item] = sum;
  }
}

template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_down_sync(0xFFFFFFFFu, value, offset);
  return value;
}

// One warp per place; all lanes have the same place and so the same path. Lanes stride over the channels.
template <typename T>
__global__ void attend_backward(DeformSizes sizes, const T* gradient, const T* value, const T* locations,
                                const T* weights, DeformAttentionGradients<T> gradients) {
  const int lane = threadIdx.x % kWarp;
  const int64_t stride = sizes.heads * sizes.channels;
  const int64_t num_places = sizes.num_levels * sizes.num_points;
  const int64_t total = sizes.samples * sizes.num_queries * sizes.heads * num_places;
  for (int64_t place = first_item() / kWarp; place < total; place += item_stride() / kWarp) {
    const int64_t row = place / num_places;
    const int64_t level = place % num_places / sizes.num_points;
    const int64_t sample = row / (sizes.num_queries * sizes.heads);
    const int64_t start =
        (sample * sizes.num_values + sizes.starts[level]) * stride + row % sizes.heads * sizes.channels;
    const T* const query_gradient = gradient + row * sizes.channels;
    const T weight = weights[place];
    DeformCorners<T> corners;
    DeformGradients<T> result{};
    if (deform_corners(locations + 2 * place, sizes.rows[level], sizes.columns[level], &corners)) {
      T products[4] = {};
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        if (!corners.inside[corner]) continue;
        const int64_t pixel = start + corners.pixel[corner] * stride;
        const T scale = corners.weight(corner) * weight;
        T product = 0;
        for (int64_t c = lane; c < sizes.channels; c += kWarp) {
          product += query_gradient[c] * value[pixel + c];
          atomicAdd(gradients.value + pixel + c, scale * query_gradient[c]);
        }
        products[corner] = warp_sum(product);
      }
      result = deform_gradients(corners, products, weight, sizes.rows[level], sizes.columns[level]);
    }
    if (lane != 0) continue;
    gradients.weights[place] = result.weight;
    gradients.locations[2 * place] = result.x;
    gradients.locations[2 * place + 1] = result.y;
  }
}

}  // namespace

template <typename T>
void ms_deform_attn(const Executor& executor, const DeformSizes& sizes, const T* value, const T* locations,
                    const T* weights, T* output) {
  const int64_t items = sizes.samples * sizes.num_queries * sizes.heads * sizes.channels;
  if (items == 0) return;
  attend<<<blocks_for(items), kThreads, 0, stream_of(executor)>>>(sizes, value, locations, weights, output);
  check_cuda(cudaGetLastError(), "ms_deform_attn");
}

template <typename T>
void ms_deform_attn_backward(const Executor& executor, const DeformSizes& sizes, const T* gradient, const T* value,
                             const T* locations, const T* weights, const DeformAttentionGradients<T>& gradients) {
  const cudaStream_t stream = stream_of(executor);
  const int64_t num_values = sizes.samples * sizes.num_values * sizes.heads * sizes.channels;
  check_cuda(cudaMemsetAsync(gradients.value, 0, num_values * sizeof(T), stream), "ms_deform_attn_backward: zeros");
  const int64_t total = sizes.samples * sizes.num_queries * sizes.heads * sizes.num_levels * sizes.num_points;
  if (total == 0) return;
  attend_backward<<<blocks_for(total * kWarp), kThreads, 0, stream>>>(sizes, gradient, value, locations, weights,
                                                                      gradients);
  check_cuda(cudaGetLastError(), "ms_deform_attn_backward");
}

#define INSTANTIATE(T)                                                                                        \
  template void ms_deform_attn<T>(const Executor&, const DeformSizes&, const T*, const T*, const T*, T*);     \
  template void ms_deform_attn_backward<T>(const Executor&, const DeformSizes&, const T*, const T*, const T*, \
                                           const T*, const DeformAttentionGradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
