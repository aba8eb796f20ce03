#include <tuple>

#include "ops/common.h"
#include "ops/row_groups.h"

namespace perception {

std::tuple<Tensor, Tensor> group_rows_op(const Tensor& index_in, int64_t num_groups) {
  const Tensor index = index_input("group_rows: index", index_in, {-1}, index_in);
  STD_TORCH_CHECK(num_groups >= 0, "group_rows: num_groups must not be negative, got ", num_groups);
  const RowGroups groups = group_rows("group_rows", Launch(index), index, num_groups);
  return {groups.order, groups.offsets};
}

PERCEPTION_OP(group_rows, group_rows_op, "(Tensor index, int num_groups) -> (Tensor order, Tensor offsets)")

}  // namespace perception
