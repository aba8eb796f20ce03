#include "cuda/launch.cuh"
#include "ops/sparse_conv.h"

namespace perception {
namespace {

constexpr int kTile = 32;   // rows and columns of a product that a block makes
constexpr int kDepth = 32;  // rows of the right side that are in shared memory at once
constexpr int kGroups = 8;  // threads of a block: kTile columns x kGroups, each with kTile / kGroups rows
constexpr int kRowsPerThread = kTile / kGroups;
constexpr int64_t kPairsPerPart = 4096;  // pairs that one partial sum of a weights' gradient takes up

static_assert(kTile * kGroups == kThreads, "a block has kThreads threads");

// First position in [begin, end) of the rising `values` that is not below `bound`.
__device__ int64_t lower_bound(const int64_t* values, int64_t begin, int64_t end, int64_t bound) {
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (values[middle] < bound) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

// One block makes kTile rows by kTile columns of the result, element after element: each sum has one order.
template <typename T>
__global__ void convolve(SparseConvSizes sizes, SparsePairs pairs, const T* features, const T* weights, T* result) {
  __shared__ int64_t source_of[kTile];  // the row of the features that meets each row of the tile, -1 for none
  __shared__ T left[kTile][kDepth + 1];
  __shared__ T right[kDepth][kTile];
  const int64_t column_tiles = (sizes.out_channels + kTile - 1) / kTile;
  const int64_t num_tiles = (sizes.num_targets + kTile - 1) / kTile * column_tiles;
  const int lane = threadIdx.x % kTile, group = threadIdx.x / kTile;
  for (int64_t tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
    const int64_t first_row = tile / column_tiles * kTile;
    const int64_t column = tile % column_tiles * kTile + lane;
    T sums[kRowsPerThread] = {};
    for (int64_t offset = 0; offset < sizes.num_offsets; ++offset) {
      const int64_t end = pairs.offsets[offset + 1];
      const int64_t own = lower_bound(pairs.targets, pairs.offsets[offset], end, first_row);
      if (own == end || pairs.targets[own] >= first_row + kTile) continue;  // the same for the whole block
      __syncthreads();
      if (threadIdx.x < kTile) source_of[threadIdx.x] = -1;
      __syncthreads();
      if (threadIdx.x < kTile && own + threadIdx.x < end && pairs.targets[own + threadIdx.x] < first_row + kTile) {
        source_of[pairs.targets[own + threadIdx.x] - first_row] = pairs.sources[own + threadIdx.x];
      }
      for (int64_t depth = 0; depth < sizes.in_channels; depth += kDepth) {
        __syncthreads();
        for (int row = group; row < kTile; row += kGroups) {
          const int64_t source = source_of[row], channel = depth + lane;
          const bool exists = source >= 0 && channel < sizes.in_channels;
          left[row][lane] = exists ? features[source * sizes.in_channels + channel] : T(0);
        }
        for (int row = group; row < kDepth; row += kGroups) {
          const bool exists = depth + row < sizes.in_channels && column < sizes.out_channels;
          const int64_t at = (offset * sizes.in_channels + depth + row) * sizes.out_channels + column;
          right[row][lane] = exists ? weights[at] : T(0);
        }
        __syncthreads();
        for (int r = 0; r < kRowsPerThread; ++r) {
          const int row = group * kRowsPerThread + r;
          if (source_of[row] < 0) continue;  // the same for the whole warp
#pragma unroll
          for (int i = 0; i < kDepth; ++i) sums[r] += left[row][i] * right[i][lane];
        }
      }
    }
    for (int r = 0; r < kRowsPerThread; ++r) {
      const int64_t row = first_row + group * kRowsPerThread + r;
      if (row < sizes.num_targets && column < sizes.out_channels) result[row * sizes.out_channels + column] = sums[r];
    }
  }
}

__device__ int64_t num_parts(const SparsePairs& pairs, int64_t offset) {
  return (pairs.offsets[offset + 1] - pairs.offsets[offset] + kPairsPerPart - 1) / kPairsPerPart;
}

// One block makes a kTile x kTile piece of the outer products of one part, and leaves it in part_sums.
template <typename T>
__global__ void add_outer_products(SparseConvSizes sizes, SparsePairs pairs, const T* features, const T* gradient,
                                   T* part_sums) {
  __shared__ T left[kDepth][kTile];
  __shared__ T right[kDepth][kTile];
  const int64_t row_tiles = (sizes.in_channels + kTile - 1) / kTile;
  const int64_t column_tiles = (sizes.out_channels + kTile - 1) / kTile;
  const int lane = threadIdx.x % kTile, group = threadIdx.x / kTile;
  const int64_t part = blockIdx.x / (row_tiles * column_tiles);
  const int64_t piece = blockIdx.x % (row_tiles * column_tiles);
  const int64_t first_row = piece / column_tiles * kTile, first_column = piece % column_tiles * kTile;
  int64_t offset = 0, number = part;
  while (offset < sizes.num_offsets && number >= num_parts(pairs, offset)) number -= num_parts(pairs, offset++);
  if (offset == sizes.num_offsets) return;  // the same for the whole block
  const int64_t begin = pairs.offsets[offset] + number * kPairsPerPart;
  const int64_t stop = begin + kPairsPerPart, last = pairs.offsets[offset + 1];
  const int64_t end = stop < last ? stop : last;
  T sums[kRowsPerThread] = {};
  for (int64_t first = begin; first < end; first += kDepth) {
    __syncthreads();
    for (int i = group; i < kDepth; i += kGroups) {
      const bool exists = first + i < end;
      const int64_t source = exists ? pairs.sources[first + i] : 0, target = exists ? pairs.targets[first + i] : 0;
      const int64_t row = first_row + lane, column = first_column + lane;
      left[i][lane] = exists && row < sizes.in_channels ? features[source * sizes.in_channels + row] : T(0);
      right[i][lane] = exists && column < sizes.out_channels ? gradient[target * sizes.out_channels + column] : T(0);
    }
    __syncthreads();
    for (int i = 0; i < kDepth; ++i) {
#pragma unroll
      for (int r = 0; r < kRowsPerThread; ++r) sums[r] += left[i][group * kRowsPerThread + r] * right[i][lane];
    }
  }
  for (int r = 0; r < kRowsPerThread; ++r) {
    const int64_t row = first_row + group * kRowsPerThread + r, column = first_column + lane;
    if (row < sizes.in_channels && column < sizes.out_channels) {
      part_sums[(part * sizes.in_channels + row) * sizes.out_channels + column] = sums[r];
    }
  }
}

// One thread per weight adds up the parts of its element in their order.
template <typename T>
__global__ void add_parts(SparseConvSizes sizes, SparsePairs pairs, const T* part_sums, T* weights_gradient) {
  const int64_t area = sizes.in_channels * sizes.out_channels;
  for (int64_t item = first_item(); item < sizes.num_offsets * area; item += item_stride()) {
    const int64_t offset = item / area;
    int64_t part = 0;
    for (int64_t before = 0; before < offset; ++before) part += num_parts(pairs, before);
    const int64_t last = part + num_parts(pairs, offset);
    T sum = 0;
    for (; part < last; ++part) sum += part_sums[part * area + item % area];
    weights_gradient[item] = sum;
  }
}

// More parts than there are: each element has at most one that is not full.
int64_t most_parts(const SparseConvSizes& sizes) { return sizes.num_pairs / kPairsPerPart + sizes.num_offsets; }

}  // namespace

template <typename T>
void sparse_conv(const Executor& executor, const SparseConvSizes& sizes, const SparsePairs& pairs, const T* features,
                 const T* weights, T* result) {
  const int64_t row_tiles = (sizes.num_targets + kTile - 1) / kTile;
  const int64_t tiles = row_tiles * ((sizes.out_channels + kTile - 1) / kTile);
  if (tiles == 0) return;
  const unsigned blocks = static_cast<unsigned>(std::min<int64_t>(tiles, int64_t{1} << 20));
  convolve<<<blocks, kThreads, 0, stream_of(executor)>>>(sizes, pairs, features, weights, result);
  check_cuda(cudaGetLastError(), "sparse_conv");
}

int64_t sparse_conv_workspace(const SparseConvSizes& sizes) {
  return most_parts(sizes) * sizes.in_channels * sizes.out_channels;
}

template <typename T>
void sparse_conv_weights_backward(const Executor& executor, const SparseConvSizes& sizes, const SparsePairs& pairs,
                                  const T* features, const T* gradient, T* weights_gradient, T* workspace) {
  const int64_t pieces = ((sizes.in_channels + kTile - 1) / kTile) * ((sizes.out_channels + kTile - 1) / kTile);
  const int64_t weights = sizes.num_offsets * sizes.in_channels * sizes.out_channels;
  if (weights == 0) return;
  const cudaStream_t stream = stream_of(executor);
  const int64_t blocks = most_parts(sizes) * pieces;  // below 2^31: a part stands for thousands of pairs
  add_outer_products<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(sizes, pairs, features, gradient,
                                                                             workspace);
  add_parts<<<blocks_for(weights), kThreads, 0, stream>>>(sizes, pairs, workspace, weights_gradient);
  check_cuda(cudaGetLastError(), "sparse_conv_weights_backward");
}

#define INSTANTIATE(T)                                                                                                 \
  template void sparse_conv<T>(const Executor&, const SparseConvSizes&, const SparsePairs&, const T*, const T*, T*);   \
  template void sparse_conv_weights_backward<T>(const Executor&, const SparseConvSizes&, const SparsePairs&, const T*, \
                                                const T*, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
