// Which input voxel meets which output voxel through which element of the kernel.
//
// A table (num_offsets, num_voxels) holds the partner of each voxel for each element, -1 for none; from it come the
// lists of pairs, ordered by element and then by voxel.
#pragma once

#include <cstdint>

#include "include/executor.h"
#include "include/sparse_pairs_math.h"

namespace perception {

struct SparseVoxels {
  const int64_t* coords;  // (count, 4) sample z y x, each voxel once
  int64_t count;          // below 2^31
};

// Bytes that submanifold_table and strided_table need besides their outputs.
int64_t table_workspace(const SparseGeometry& geometry, int64_t num_voxels, bool strided);

// For a convolution whose outputs are its inputs: the input that each output sees through each element. Returns the
// first voxel that is outside or repeated, or -1; CUDA does not look, there such a voxel meets nothing or the first of
// its kind does.
int64_t submanifold_table(const Executor& executor, const SparseGeometry& geometry, const SparseVoxels& voxels,
                          int32_t* table, void* workspace);

// The most outputs that a strided convolution can have.
inline int64_t most_outputs(const SparseGeometry& geometry, int64_t num_voxels) {
  int64_t per_voxel = 1;
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t kernel = geometry.kernel[axis], stride = geometry.stride[axis];
    per_voxel *= geometry.dilation[axis] == 1 ? (kernel + stride - 1) / stride : kernel;
  }
  return per_voxel * num_voxels;
}

struct StridedOutputs {
  int64_t count;
  int64_t bad_voxel;  // outside: as submanifold_table returns it
};

// For a convolution with an output wherever its kernel meets an input: the output that sees each input through each
// element. Outputs are numbered in the order in which inputs, and elements per input, meet them.
//   coords (most_outputs, 4): sample z y x, of which the first `count` rows are written
StridedOutputs strided_table(const Executor& executor, const SparseGeometry& geometry, const SparseVoxels& voxels,
                             int32_t* table, int64_t* coords, void* workspace);

struct PairTable {
  const int32_t* partners;  // (num_offsets, count)
  int64_t num_offsets;
  int64_t count;
};

// The table of the partners: inverse (num_offsets, num_partners).
void invert_table(const Executor& executor, const PairTable& table, int64_t num_partners, int32_t* inverse);

// Bytes that count_pairs passes on to list_pairs.
int64_t pairs_workspace(const PairTable& table);

// Returns the number of pairs and where each element's begin: offsets (num_offsets + 1).
int64_t count_pairs(const Executor& executor, const PairTable& table, int64_t* offsets, void* workspace);

// Lists each voxel as target and its partner as source.
//   sources (pairs), targets (pairs)
void list_pairs(const Executor& executor, const PairTable& table, const int64_t* offsets, const void* workspace,
                int64_t* sources, int64_t* targets);

}  // namespace perception
