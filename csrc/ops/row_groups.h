// group_rows on tensors, for the ops that reduce by group.
#pragma once

#include <stdexcept>

#include "ops/common.h"
#include "ops/group_rows.h"

namespace perception {

struct RowGroups {
  Tensor order;    // (P)
  Tensor offsets;  // (G + 1)
};

// `index` is a contiguous int64 (P); `op` is named where it holds a number out of range.
inline RowGroups group_rows(const char* op, const Launch& launch, const Tensor& index, int64_t num_groups) {
  const int64_t num_rows = index.numel();
  RowGroups groups{torch::stable::new_empty(index, {num_rows}), torch::stable::new_empty(index, {num_groups + 1})};
  const Tensor workspace = torch::stable::new_empty(index, {group_rows_workspace(num_rows)}, ScalarType::Byte);
  const int64_t* const values = index.const_data_ptr<int64_t>();
  const int64_t bad_row =
      group_rows(launch.executor(), values, num_rows, num_groups, groups.order.mutable_data_ptr<int64_t>(),
                 groups.offsets.mutable_data_ptr<int64_t>(), workspace.mutable_data_ptr());
  if (bad_row >= 0) {
    std::ostringstream message;  // std::invalid_argument reaches Python as ValueError
    message << op << ": index must be in [-1, " << num_groups << "), got " << values[bad_row] << " at row " << bad_row;
    throw std::invalid_argument(message.str());
  }
  return groups;
}

}  // namespace perception
