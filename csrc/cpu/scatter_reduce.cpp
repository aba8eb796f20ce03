#include "ops/scatter_reduce.h"

#include <algorithm>

#include "cpu/large_pages.h"
#include "include/vectorize.h"

namespace perception {
namespace {

constexpr int64_t kElementsPerTask = 16384;

int64_t grain_for(int64_t channels) { return std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, channels)); }

// The rows, of which a task takes those of segments [first, last).
template <typename T>
struct Share {
  const T* features;
  const int64_t* index;
  ScatterSizes sizes;
  int64_t first;
  int64_t last;
};

template <typename T>
PERCEPTION_MULTIVERSION void add_rows(const Share<T>& share, T* reduced) {
  const int64_t channels = share.sizes.channels;
  for (int64_t row = 0; row < share.sizes.num_rows; ++row) {
    const int64_t segment = share.index[row];
    if (segment < share.first || segment >= share.last) continue;
    const T* const __restrict values = share.features + row * channels;
    T* const __restrict sums = reduced + segment * channels;
    for (int64_t c = 0; c < channels; ++c) sums[c] += values[c];
  }
}

template <typename T>
PERCEPTION_MULTIVERSION void keep_largest(const Share<T>& share, T* reduced, int32_t* largest) {
  const int64_t channels = share.sizes.channels;
  for (int64_t row = 0; row < share.sizes.num_rows; ++row) {
    const int64_t segment = share.index[row];
    if (segment < share.first || segment >= share.last) continue;
    const T* const __restrict values = share.features + row * channels;
    T* const __restrict most = reduced + segment * channels;
    int32_t* const __restrict rows = largest + segment * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const bool replace = (rows[c] < 0) | replaces_largest(values[c], most[c]);
      most[c] = replace ? values[c] : most[c];
      rows[c] = replace ? static_cast<int32_t>(row) : rows[c];
    }
  }
}

template <typename T>
PERCEPTION_MULTIVERSION void divide(const int64_t* counts, int64_t first, int64_t last, int64_t channels, T* reduced) {
  for (int64_t segment = first; segment < last; ++segment) {
    const T count = static_cast<T>(std::max<int64_t>(1, counts[segment]));
    for (int64_t c = 0; c < channels; ++c) reduced[segment * channels + c] /= count;
  }
}

template <typename T>
void reduce_share(Reduce reduce, const Share<T>& share, const int64_t* counts, T* reduced, int32_t* largest) {
  const int64_t channels = share.sizes.channels;
  std::fill(reduced + share.first * channels, reduced + share.last * channels, T(0));
  if (reduce == Reduce::kMax) {
    std::fill(largest + share.first * channels, largest + share.last * channels, -1);
    keep_largest(share, reduced, largest);
    return;
  }
  add_rows(share, reduced);
  if (reduce == Reduce::kMean) divide(counts, share.first, share.last, channels, reduced);
}

// Returns the first row whose segment does not exist, or -1.
int64_t count_rows(const int64_t* index, ScatterSizes sizes, int64_t* counts) {
  std::fill(counts, counts + sizes.num_segments, int64_t{0});
  for (int64_t row = 0; row < sizes.num_rows; ++row) {
    const int64_t segment = index[row];
    if (segment < -1 || segment >= sizes.num_segments) return row;
    if (segment >= 0) ++counts[segment];
  }
  return -1;
}

template <typename T>
PERCEPTION_MULTIVERSION void spread(const T* gradient, T scale, int64_t channels, T* out) {
  for (int64_t c = 0; c < channels; ++c) out[c] = gradient[c] * scale;
}

template <typename T>
PERCEPTION_MULTIVERSION void spread_to_largest(const T* gradient, const int32_t* largest, int64_t row, int64_t channels,
                                               T* out) {
  const int32_t own = static_cast<int32_t>(row);
  for (int64_t c = 0; c < channels; ++c) out[c] = largest[c] == own ? gradient[c] : T(0);
}

}  // namespace

int64_t scatter_reduce_workspace(ScatterSizes sizes) {
  return (sizes.num_segments + 1) * static_cast<int64_t>(sizeof(int64_t));
}

// Each task looks at the segment of every row and reads the rows of its own segments, in their order. Segments are
// shared out so that tasks have about as many rows each.
template <typename T>
int64_t scatter_reduce(const Executor& executor, Reduce reduce, ScatterSizes sizes, const T* features,
                       const int64_t* index, T* reduced, int64_t* counts, int32_t* largest, void* workspace) {
  const int64_t bad_row = count_rows(index, sizes, counts);
  if (bad_row >= 0) return bad_row;
  int64_t* const starts = static_cast<int64_t*>(workspace);
  starts[0] = 0;
  for (int64_t s = 0; s < sizes.num_segments; ++s) starts[s + 1] = starts[s] + counts[s];
  int64_t* const last_start = starts + sizes.num_segments;
  const int64_t total = *last_start;
  if (total == 0)
    reduce_share(reduce, Share<T>{features, index, sizes, 0, sizes.num_segments}, counts, reduced, largest);
  executor.parallel_for(total, grain_for(sizes.channels), [&](int64_t begin, int64_t end) {
    const int64_t first = std::lower_bound(starts, last_start, begin) - starts;
    const int64_t last = end == total ? sizes.num_segments : std::lower_bound(starts, last_start, end) - starts;
    reduce_share(reduce, Share<T>{features, index, sizes, first, last}, counts, reduced, largest);
  });
  return -1;
}

template <typename T>
void scatter_reduce_backward(const Executor& executor, Reduce reduce, ScatterSizes sizes, const T* gradient,
                             const int64_t* index, const int64_t* counts, const int32_t* largest,
                             T* features_gradient) {
  const int64_t channels = sizes.channels;
  ask_large_pages(features_gradient, sizes.num_rows * channels * static_cast<int64_t>(sizeof(T)));
  executor.parallel_for(sizes.num_rows, grain_for(channels), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t segment = index[row];
      T* const out = features_gradient + row * channels;
      if (segment < 0 || segment >= sizes.num_segments) {
        std::fill(out, out + channels, T(0));
      } else if (reduce == Reduce::kMax) {
        spread_to_largest(gradient + segment * channels, largest + segment * channels, row, channels, out);
      } else {
        spread(gradient + segment * channels, gradient_scale<T>(reduce, counts[segment]), channels, out);
      }
    }
  });
}

#define INSTANTIATE(T)                                                                                              \
  template int64_t scatter_reduce<T>(const Executor&, Reduce, ScatterSizes, const T*, const int64_t*, T*, int64_t*, \
                                     int32_t*, void*);                                                              \
  template void scatter_reduce_backward<T>(const Executor&, Reduce, ScatterSizes, const T*, const int64_t*,         \
                                           const int64_t*, const int32_t*, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
