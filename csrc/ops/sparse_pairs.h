// Which input voxel meets which output voxel through which element of the kernel: a search finds the pairs, then they
// are listed in memory of their number.
#pragma once

#include <cstdint>
#include <memory>

#include "include/executor.h"
#include "include/sparse_pairs_math.h"

namespace perception {

struct SparseVoxels {
  const int64_t* coords;  // (count, 4) sample z y x, each voxel once
  int64_t count;          // below 2^31
};

// Memory on a CUDA device that lives until the op returns; on the CPU nobody takes any.
struct Scratch {
  void* (*take_bytes)(int64_t count, void* context);
  void* context;

  template <typename T>
  T* take(int64_t count) const {
    return static_cast<T*>(take_bytes(count * static_cast<int64_t>(sizeof(T)), context));
  }
};

struct PairSearch;  // what a search keeps for the lists; each device has its own

struct FoundPairs {
  int64_t num_pairs;
  int64_t num_outputs;
  // The first voxel outside, else the first repeated, else -1. CUDA does not look: there a voxel outside meets nothing,
  // of repeated ones a submanifold's meets the first, and strided ones throw std::invalid_argument.
  int64_t bad_voxel;
  std::shared_ptr<const PairSearch> search;  // null where there is a bad voxel
};

// For a convolution whose outputs are its inputs.
FoundPairs find_submanifold_pairs(const Executor& executor, const Scratch& scratch, const SparseGeometry& geometry,
                                  const SparseVoxels& voxels);

// For a convolution with an output wherever its kernel meets an input.
FoundPairs find_strided_pairs(const Executor& executor, const Scratch& scratch, const SparseGeometry& geometry,
                              const SparseVoxels& voxels);

// Lists the outputs of a strided convolution, sorted by sample, z, y, x.
//   coords (num_outputs, 4): sample z y x
void list_outputs(const Executor& executor, const FoundPairs& found, int64_t* coords);

enum class PairTargets { kOutputs, kInputs };

// Lists the pairs, sorted by element of the kernel and then by target.
//   offsets (num_offsets + 1): where the pairs of each element begin; sources (num_pairs), targets (num_pairs)
void list_pairs(const Executor& executor, const FoundPairs& found, PairTargets ends, int64_t* offsets, int64_t* sources,
                int64_t* targets);

}  // namespace perception
