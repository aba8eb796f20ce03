#include "ops/scatter_reduce.h"

#include <algorithm>
#include <vector>

#include "cpu/large_pages.h"
#include "cpu/weighted_rows.h"
#include "include/vectorize.h"

namespace perception {
namespace {

constexpr int64_t kElementsPerTask = 16384;
constexpr int64_t kRowsAtOnce = 1024;
constexpr int64_t kAhead = 8;       // rows between asking for one and reading it
constexpr int64_t kSamples = 1024;  // at most, of the index

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

// Calls visit(row, segment) for the rows of the share in their order. The rows are picked out before they are read, so
// that none is waited for: which rows are whose cannot be guessed.
template <typename T, typename Visit>
PERCEPTION_INLINE void for_each_row(const Share<T>& share, const T* reduced, const Visit& visit) {
  const int64_t channels = share.sizes.channels;
  const uint64_t num_own = static_cast<uint64_t>(share.last - share.first);
  int64_t own[kRowsAtOnce];
  for (int64_t begin = 0; begin < share.sizes.num_rows; begin += kRowsAtOnce) {
    const int64_t end = std::min(begin + kRowsAtOnce, share.sizes.num_rows);
    int64_t count = 0;
    for (int64_t row = begin; row < end; ++row) {
      own[count] = row;
      count += static_cast<uint64_t>(share.index[row] - share.first) < num_own;
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t ahead = own[std::min(i + kAhead, count - 1)];
      prefetch(share.features + ahead * channels, channels);
      prefetch(reduced + share.index[ahead] * channels, channels);
      visit(own[i], share.index[own[i]]);
    }
  }
}

template <typename T>
PERCEPTION_MULTIVERSION void add_rows(const Share<T>& share, T* reduced, int64_t* counts) {
  const int64_t channels = share.sizes.channels;
  for_each_row(share, reduced, [=](int64_t row, int64_t segment) __attribute__((always_inline)) {
    const T* const __restrict values = share.features + row * channels;
    T* const __restrict sums = reduced + segment * channels;
    for (int64_t c = 0; c < channels; ++c) sums[c] += values[c];
    ++counts[segment];
  });
}

template <typename T>
PERCEPTION_MULTIVERSION void keep_largest(const Share<T>& share, T* reduced, int64_t* counts, int32_t* largest) {
  const int64_t channels = share.sizes.channels;
  for_each_row(share, reduced, [=](int64_t row, int64_t segment) __attribute__((always_inline)) {
    const T* const __restrict values = share.features + row * channels;
    T* const __restrict most = reduced + segment * channels;
    int32_t* const __restrict rows = largest + segment * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const bool replace = (rows[c] < 0) | replaces_largest(values[c], most[c]);
      most[c] = replace ? values[c] : most[c];
      rows[c] = replace ? static_cast<int32_t>(row) : rows[c];
    }
    ++counts[segment];
  });
}

template <typename T>
PERCEPTION_MULTIVERSION void divide(const int64_t* counts, int64_t first, int64_t last, int64_t channels, T* reduced) {
  for (int64_t segment = first; segment < last; ++segment) {
    const T count = static_cast<T>(std::max<int64_t>(1, counts[segment]));
    for (int64_t c = 0; c < channels; ++c) reduced[segment * channels + c] /= count;
  }
}

template <typename T>
void reduce_share(Reduce reduce, const Share<T>& share, T* reduced, int64_t* counts, int32_t* largest) {
  const int64_t channels = share.sizes.channels;
  std::fill(reduced + share.first * channels, reduced + share.last * channels, T(0));
  std::fill(counts + share.first, counts + share.last, int64_t{0});
  if (reduce == Reduce::kMax) {
    std::fill(largest + share.first * channels, largest + share.last * channels, -1);
    keep_largest(share, reduced, counts, largest);
    return;
  }
  add_rows(share, reduced, counts);
  if (reduce == Reduce::kMean) divide(counts, share.first, share.last, channels, reduced);
}

// Returns the first row whose segment does not exist, or -1.
int64_t find_bad_row(const int64_t* index, ScatterSizes sizes) {
  for (int64_t row = 0; row < sizes.num_rows; ++row) {
    if (index[row] < -1 || index[row] >= sizes.num_segments) return row;
  }
  return -1;
}

// Some of the segments in the index, rising: where to cut so that all parts have about as many rows.
std::vector<int64_t> sample_segments(const int64_t* index, ScatterSizes sizes) {
  std::vector<int64_t> samples;
  const int64_t step = sizes.num_rows / kSamples + 1;
  for (int64_t row = 0; row < sizes.num_rows; row += step) {
    if (index[row] >= 0) samples.push_back(index[row]);
  }
  std::sort(samples.begin(), samples.end());
  return samples;
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

int64_t scatter_reduce_workspace(ScatterSizes) { return 0; }

// Each task looks at the segment of every row and reads the rows of its own segments, in their order.
template <typename T>
int64_t scatter_reduce(const Executor& executor, Reduce reduce, ScatterSizes sizes, const T* features,
                       const int64_t* index, T* reduced, int64_t* counts, int32_t* largest, void* /*workspace*/) {
  const int64_t bad_row = find_bad_row(index, sizes);
  if (bad_row >= 0) return bad_row;
  const std::vector<int64_t> samples = sample_segments(index, sizes);
  const int64_t total = std::max<int64_t>(1, sizes.num_rows);
  const auto cut = [&](int64_t place) {
    if (place == 0 || samples.empty()) return int64_t{0};
    return samples[static_cast<size_t>(place * static_cast<int64_t>(samples.size()) / total)];
  };
  executor.parallel_for(total, grain_for(sizes.channels), [&](int64_t begin, int64_t end) {
    const int64_t last = end == total ? sizes.num_segments : cut(end);
    reduce_share(reduce, Share<T>{features, index, sizes, cut(begin), last}, reduced, counts, largest);
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
      const int64_t next = index[std::min(row + kAhead, end - 1)];
      if (next >= 0 && next < sizes.num_segments) prefetch(gradient + next * channels, channels);
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
