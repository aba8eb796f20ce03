// Sparse convolution by pairs of voxels: rows are gathered, multiplied and added up in one step.
#pragma once

#include <cstdint>

#include "include/executor.h"

namespace perception {

struct SparseConvSizes {
  int64_t num_sources;
  int64_t num_targets;
  int64_t num_offsets;  // elements of the kernel
  int64_t num_pairs;
  int64_t in_channels;
  int64_t out_channels;
};

// The pairs of element k are offsets[k] .. offsets[k + 1); their targets rise.
struct SparsePairs {
  const int64_t* sources;  // (num_pairs)
  const int64_t* targets;  // (num_pairs)
  const int64_t* offsets;  // (num_offsets + 1)
};

// result[target] = sum over elements k, in their order, of features[source] @ weights[k].
//   features (num_sources, in_channels), weights (num_offsets, in_channels, out_channels)
//   result (num_targets, out_channels)
template <typename T>
void sparse_conv(const Executor& executor, const SparseConvSizes& sizes, const SparsePairs& pairs, const T* features,
                 const T* weights, T* result);

// Numbers that sparse_conv_weights_backward needs besides its output.
int64_t sparse_conv_workspace(const SparseConvSizes& sizes);

// weights_gradient[k] = sum over the pairs of element k of outer(features[source], gradient[target]), the same bits at
// any number of threads.
//   gradient (num_targets, out_channels), weights_gradient (num_offsets, in_channels, out_channels)
template <typename T>
void sparse_conv_weights_backward(const Executor& executor, const SparseConvSizes& sizes, const SparsePairs& pairs,
                                  const T* features, const T* gradient, T* weights_gradient, T* workspace);

}  // namespace perception
