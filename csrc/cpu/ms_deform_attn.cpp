#include "ops/ms_deform_attn.h"

#include <algorithm>
#include <vector>

#include "cpu/weighted_rows.h"
#include "include/vectorize.h"

namespace perception {
namespace {

constexpr int64_t kQueriesPerTask = 64;
constexpr int64_t kQueriesAhead = 4;

// Copies every `stride`-th run of `channels` numbers. One head's values, side by side, fit the second cache and use all
// of it; where they lie between the other heads' they share a few of its sets.
template <typename T>
void pack_head(const T* values, int64_t count, int64_t stride, int64_t channels, T* packed) {
  for (int64_t i = 0; i < count; ++i) std::copy_n(values + i * stride, channels, packed + i * channels);
}

// The values of one sample and head, `stride` numbers from one to the next.
template <typename T>
struct HeadValues {
  const T* first;
  int64_t stride;
};

// Attends with one query of one head; `rows` has room for four per place. The pixels that are inside are listed first,
// without branches, and then added up.
template <typename T>
PERCEPTION_MULTIVERSION void attend(const DeformSizes& sizes, HeadValues<T> value, const T* locations, const T* weights,
                                    WeightedRow<T>* rows, T* output) {
  const int64_t ahead = kQueriesAhead * sizes.heads * sizes.num_levels * sizes.num_points;
  prefetch(locations + 2 * ahead, 2 * sizes.num_levels * sizes.num_points);
  prefetch(weights + ahead, sizes.num_levels * sizes.num_points);
  int64_t count = 0;
  for (int64_t level = 0; level < sizes.num_levels; ++level) {
    const T* const level_value = value.first + sizes.starts[level] * value.stride;
    for (int64_t i = level * sizes.num_points; i < (level + 1) * sizes.num_points; ++i) {
      DeformCorners<T> corners;
      if (!deform_corners(locations + 2 * i, sizes.rows[level], sizes.columns[level], &corners)) continue;
#pragma GCC unroll 4
      for (int corner = 0; corner < 4; ++corner) {
        rows[count] = {level_value + corners.pixel[corner] * value.stride, corners.weight(corner) * weights[i]};
        prefetch(rows[count].row, 2 * Lanes<T>::kCount);
        count += corners.inside[corner];
      }
    }
  }
  add_rows(rows, count, sizes.channels, output);
}

// Gradients of the places of one query, head and level. `value` and its gradient are packed and start at the level, the
// others at this query; `ahead` is how many places further those of a later query are.
template <typename T>
PERCEPTION_MULTIVERSION void attend_backward(const DeformSizes& sizes, int64_t level, int64_t ahead, const T* gradient,
                                             const T* value, const T* locations, const T* weights,
                                             const DeformAttentionGradients<T>& gradients) {
  prefetch(locations + 2 * ahead, 2 * sizes.num_points);
  prefetch(weights + ahead, sizes.num_points);
  for (int64_t i = 0; i < sizes.num_points; ++i) {
    DeformCorners<T> corners;
    DeformGradients<T> place{};
    if (deform_corners(locations + 2 * i, sizes.rows[level], sizes.columns[level], &corners)) {
      T products[4] = {};
#pragma GCC unroll 4
      for (int corner = 0; corner < 4; ++corner) {
        if (!corners.inside[corner]) continue;
        const int64_t row = corners.pixel[corner] * sizes.channels;
        const T scale = corners.weight(corner) * weights[i];
        products[corner] = dot_and_add(gradient, value + row, sizes.channels, scale, gradients.value + row);
      }
      place = deform_gradients(corners, products, weights[i], sizes.rows[level], sizes.columns[level]);
    }
    gradients.weights[i] = place.weight;
    gradients.locations[2 * i] = place.x;
    gradients.locations[2 * i + 1] = place.y;
  }
}

// One level of one head of one sample: everything it adds to lies in this level and head, so that no two tasks meet.
template <typename T>
void level_backward(const DeformSizes& sizes, int64_t task, const T* gradient, const T* value, const T* locations,
                    const T* weights, const DeformAttentionGradients<T>& gradients) {
  const int64_t level = task % sizes.num_levels;
  const int64_t head = task / sizes.num_levels % sizes.heads;
  const int64_t sample = task / (sizes.num_levels * sizes.heads);
  const int64_t stride = sizes.heads * sizes.channels;
  const int64_t start = (sample * sizes.num_values + sizes.starts[level]) * stride + head * sizes.channels;
  const int64_t num_pixels = sizes.rows[level] * sizes.columns[level];
  std::vector<T> packed(num_pixels * sizes.channels);
  std::vector<T> packed_gradient(packed.size());
  pack_head(value + start, num_pixels, stride, sizes.channels, packed.data());
  const int64_t ahead = kQueriesAhead * sizes.heads * sizes.num_levels * sizes.num_points;
  for (int64_t query = 0; query < sizes.num_queries; ++query) {
    const int64_t row = (sample * sizes.num_queries + query) * sizes.heads + head;
    const int64_t place = (row * sizes.num_levels + level) * sizes.num_points;
    attend_backward<T>(sizes, level, ahead, gradient + row * sizes.channels, packed.data(), locations + 2 * place,
                       weights + place,
                       {packed_gradient.data(), gradients.locations + 2 * place, gradients.weights + place});
  }
  for (int64_t pixel = 0; pixel < num_pixels; ++pixel) {
    std::copy_n(packed_gradient.data() + pixel * sizes.channels, sizes.channels,
                gradients.value + start + pixel * stride);
  }
}

}  // namespace

// Items count over (samples, heads, queries), so that a thread stays with one head's values.
template <typename T>
void ms_deform_attn(const Executor& executor, const DeformSizes& sizes, const T* value, const T* locations,
                    const T* weights, T* output) {
  const int64_t num_places = sizes.num_levels * sizes.num_points;
  const int64_t num_items = sizes.samples * sizes.heads * sizes.num_queries;
  executor.parallel_for(num_items, kQueriesPerTask, [=, &sizes](int64_t begin, int64_t end) {
    std::vector<WeightedRow<T>> rows(4 * num_places + 1);  // one more is written to than is counted
    std::vector<T> packed;
    while (begin < end) {
      const int64_t head = begin / sizes.num_queries % sizes.heads;
      const int64_t sample = begin / (sizes.num_queries * sizes.heads);
      const int64_t first_query = begin % sizes.num_queries;
      const int64_t last_query = std::min(first_query + end - begin, sizes.num_queries);
      HeadValues<T> head_value{value + (sample * sizes.num_values * sizes.heads + head) * sizes.channels,
                               sizes.heads * sizes.channels};
      if ((last_query - first_query) * num_places > sizes.num_values) {  // enough is read to pay for the copy
        packed.resize(sizes.num_values * sizes.channels);
        pack_head(head_value.first, sizes.num_values, head_value.stride, sizes.channels, packed.data());
        head_value = {packed.data(), sizes.channels};
      }
      for (int64_t query = first_query; query < last_query; ++query) {
        const int64_t row = (sample * sizes.num_queries + query) * sizes.heads + head;
        attend(sizes, head_value, locations + row * num_places * 2, weights + row * num_places, rows.data(),
               output + row * sizes.channels);
      }
      begin += last_query - first_query;
    }
  });
}

template <typename T>
void ms_deform_attn_backward(const Executor& executor, const DeformSizes& sizes, const T* gradient, const T* value,
                             const T* locations, const T* weights, const DeformAttentionGradients<T>& gradients) {
  executor.parallel_for(sizes.samples * sizes.heads * sizes.num_levels, 1, [=, &sizes](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      level_backward(sizes, task, gradient, value, locations, weights, gradients);
    }
  });
}

#define INSTANTIATE(T)                                                                                        \
  template void ms_deform_attn<T>(const Executor&, const DeformSizes&, const T*, const T*, const T*, T*);     \
  template void ms_deform_attn_backward<T>(const Executor&, const DeformSizes&, const T*, const T*, const T*, \
                                           const T*, const DeformAttentionGradients<T>&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
