#include "cuda/launch.cuh"
#include "ops/group_rows.h"
#include "ops/scatter_reduce.h"

namespace perception {
namespace {

// One thread per (segment, channel) walks the segment's rows in order: the same sum on every run.
template <typename T>
__global__ void reduce_segments(Reduce reduce, ScatterSizes sizes, const T* features, const int64_t* order,
                                const int64_t* offsets, T* reduced, int32_t* largest) {
  for (int64_t item = first_item(); item < sizes.num_segments * sizes.channels; item += item_stride()) {
    const int64_t segment = item / sizes.channels;
    const int64_t channel = item % sizes.channels;
    const int64_t begin = offsets[segment];
    const int64_t end = offsets[segment + 1];
    T result = 0;
    int64_t largest_row = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = order[i];
      const T value = features[row * sizes.channels + channel];
      if (reduce != Reduce::kMax) {
        result += value;
      } else if (largest_row < 0 || replaces_largest(value, result)) {
        result = value;
        largest_row = row;
      }
    }
    if (reduce == Reduce::kMean && end > begin) result /= static_cast<T>(end - begin);
    if (reduce == Reduce::kMax) largest[item] = static_cast<int32_t>(largest_row);
    reduced[item] = result;
  }
}

template <typename T>
__global__ void reduce_segments_backward(Reduce reduce, ScatterSizes sizes, const T* gradient, const int64_t* index,
                                         const int64_t* counts, const int32_t* largest, T* features_gradient) {
  for (int64_t item = first_item(); item < sizes.num_rows * sizes.channels; item += item_stride()) {
    const int64_t row = item / sizes.channels;
    const int64_t segment = index[row];
    T result = 0;
    if (segment >= 0 && segment < sizes.num_segments) {
      const int64_t at = segment * sizes.channels + item % sizes.channels;
      const bool receives = reduce != Reduce::kMax || largest[at] == row;
      result = receives ? gradient[at] * gradient_scale<T>(reduce, counts[segment]) : T(0);
    }
    features_gradient[item] = result;
  }
}

__global__ void count_segments(int64_t num_segments, const int64_t* offsets, int64_t* counts) {
  for (int64_t segment = first_item(); segment < num_segments; segment += item_stride()) {
    counts[segment] = offsets[segment + 1] - offsets[segment];
  }
}

// The rows of each segment, side by side.
struct Groups {
  int64_t* order;    // (num_rows)
  int64_t* offsets;  // (num_segments + 1)
  char* sort;
  int64_t total;

  Groups(void* base, ScatterSizes sizes) {
    Workspace workspace(base);
    order = workspace.take<int64_t>(sizes.num_rows);
    offsets = workspace.take<int64_t>(sizes.num_segments + 1);
    sort = workspace.take<char>(group_rows_workspace(sizes.num_rows));
    total = workspace.bytes();
  }
};

}  // namespace

int64_t scatter_reduce_workspace(ScatterSizes sizes) { return Groups(nullptr, sizes).total; }

template <typename T>
int64_t scatter_reduce(const Executor& executor, Reduce reduce, ScatterSizes sizes, const T* features,
                       const int64_t* index, T* reduced, int64_t* counts, int32_t* largest, void* workspace) {
  if (sizes.num_segments == 0) return -1;
  const cudaStream_t stream = stream_of(executor);
  const Groups groups(workspace, sizes);
  group_rows(executor, index, sizes.num_rows, sizes.num_segments, groups.order, groups.offsets, groups.sort);
  count_segments<<<blocks_for(sizes.num_segments), kThreads, 0, stream>>>(sizes.num_segments, groups.offsets, counts);
  check_cuda(cudaGetLastError(), "scatter_reduce: counts");
  const int64_t items = sizes.num_segments * sizes.channels;
  if (items == 0) return -1;
  reduce_segments<<<blocks_for(items), kThreads, 0, stream>>>(reduce, sizes, features, groups.order, groups.offsets,
                                                              reduced, largest);
  check_cuda(cudaGetLastError(), "scatter_reduce");
  return -1;
}

template <typename T>
void scatter_reduce_backward(const Executor& executor, Reduce reduce, ScatterSizes sizes, const T* gradient,
                             const int64_t* index, const int64_t* counts, const int32_t* largest,
                             T* features_gradient) {
  const int64_t items = sizes.num_rows * sizes.channels;
  if (items == 0) return;
  reduce_segments_backward<<<blocks_for(items), kThreads, 0, stream_of(executor)>>>(reduce, sizes, gradient, index,
                                                                                    counts, largest, features_gradient);
  check_cuda(cudaGetLastError(), "scatter_reduce_backward");
}

#define INSTANTIATE(T)                                                                                              \
  template int64_t scatter_reduce<T>(const Executor&, Reduce, ScatterSizes, const T*, const int64_t*, T*, int64_t*, \
                                     int32_t*, void*);                                                              \
  template void scatter_reduce_backward<T>(const Executor&, Reduce, ScatterSizes, const T*, const int64_t*,         \
                                           const int64_t*, const int32_t*, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
