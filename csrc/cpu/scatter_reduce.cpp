#include "ops/scatter_reduce.h"

#include <algorithm>

#include "include/vectorize.h"

namespace perception {
namespace {

constexpr int64_t kElementsPerTask = 16384;

int64_t grain_for(int64_t channels) { return std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, channels)); }

template <typename T>
PERCEPTION_MULTIVERSION void add_row(const T* row, int64_t channels, T* sum) {
  for (int64_t c = 0; c < channels; ++c) sum[c] += row[c];
}

template <typename T>
PERCEPTION_MULTIVERSION void keep_largest(const T* values, int64_t row, int64_t channels, T* largest, int64_t* rows) {
  for (int64_t c = 0; c < channels; ++c) {
    const bool replace = replaces_largest(values[c], largest[c]);
    largest[c] = replace ? values[c] : largest[c];
    rows[c] = replace ? row : rows[c];
  }
}

template <typename T>
void reduce_sum(const T* features, const int64_t* rows, int64_t count, int64_t channels, bool mean, T* reduced) {
  std::fill(reduced, reduced + channels, T(0));
  for (int64_t i = 0; i < count; ++i) add_row(features + rows[i] * channels, channels, reduced);
  if (!mean || count == 0) return;
  for (int64_t c = 0; c < channels; ++c) reduced[c] /= static_cast<T>(count);
}

template <typename T>
void reduce_max(const T* features, const int64_t* rows, int64_t count, int64_t channels, T* reduced, int64_t* largest) {
  if (count == 0) {
    std::fill(reduced, reduced + channels, T(0));
    std::fill(largest, largest + channels, int64_t{-1});
    return;
  }
  std::copy(features + rows[0] * channels, features + (rows[0] + 1) * channels, reduced);
  std::fill(largest, largest + channels, rows[0]);
  for (int64_t i = 1; i < count; ++i) keep_largest(features + rows[i] * channels, rows[i], channels, reduced, largest);
}

}  // namespace

template <typename T>
void scatter_reduce(const Executor& executor, Reduce reduce, ScatterSizes sizes, const T* features,
                    const int64_t* order, const int64_t* offsets, T* reduced, int64_t* counts, int64_t* largest) {
  const int64_t channels = sizes.channels;
  executor.parallel_for(sizes.num_segments, grain_for(channels), [=](int64_t begin, int64_t end) {
    for (int64_t segment = begin; segment < end; ++segment) {
      const int64_t* rows = order + offsets[segment];
      const int64_t count = counts[segment] = offsets[segment + 1] - offsets[segment];
      if (reduce == Reduce::kMax) {
        reduce_max(features, rows, count, channels, reduced + segment * channels, largest + segment * channels);
      } else {
        reduce_sum(features, rows, count, channels, reduce == Reduce::kMean, reduced + segment * channels);
      }
    }
  });
}

template <typename T>
void scatter_reduce_backward(const Executor& executor, Reduce reduce, ScatterSizes sizes, const T* gradient,
                             const int64_t* index, const int64_t* counts, const int64_t* largest,
                             T* features_gradient) {
  const int64_t channels = sizes.channels;
  executor.parallel_for(sizes.num_rows, grain_for(channels), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t segment = index[row];
      T* const out = features_gradient + row * channels;
      if (segment < 0 || segment >= sizes.num_segments) {
        std::fill(out, out + channels, T(0));
        continue;
      }
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t at = segment * channels + c;
        const bool is_largest = reduce == Reduce::kMax && largest[at] == row;
        out[c] = input_gradient(reduce, gradient[at], counts[segment], is_largest);
      }
    }
  });
}

#define INSTANTIATE(T)                                                                                                 \
  template void scatter_reduce<T>(const Executor&, Reduce, ScatterSizes, const T*, const int64_t*, const int64_t*, T*, \
                                  int64_t*, int64_t*);                                                                 \
  template void scatter_reduce_backward<T>(const Executor&, Reduce, ScatterSizes, const T*, const int64_t*,            \
                                           const int64_t*, const int64_t*, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
