// Groups rows by an index, keeping their order: the sorted form in which segments are reduced without atomics.
#pragma once

#include <cstdint>

#include "include/executor.h"

namespace perception {

// Bytes that group_rows needs besides its outputs.
int64_t group_rows_workspace(int64_t num_rows);

// order[offsets[g] .. offsets[g + 1]) are the rows with index g, rising; order[offsets[num_groups] ..) those without a
// group (-1). Returns the first row whose index is outside [-1, num_groups), or -1; the outputs are then undefined.
// CUDA does not look, as that would stall the device: there such an index counts as -1.
//   index (num_rows), order (num_rows), offsets (num_groups + 1)
int64_t group_rows(const Executor& executor, const int64_t* index, int64_t num_rows, int64_t num_groups, int64_t* order,
                   int64_t* offsets, void* workspace);

}  // namespace perception
