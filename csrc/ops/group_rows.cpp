#include "ops/group_rows.h"

#include <tuple>

#include "ops/common.h"

namespace perception {

std::tuple<Tensor, Tensor> group_rows_op(const Tensor& index_in, int64_t num_groups) {
  const Tensor index = index_input("group_rows: index", index_in, {-1}, index_in);
  STD_TORCH_CHECK(num_groups >= 0, "group_rows: num_groups must not be negative, got ", num_groups);
  const int64_t num_rows = index.numel();
  Tensor order = torch::stable::new_empty(index, {num_rows});
  Tensor offsets = torch::stable::new_empty(index, {num_groups + 1});
  const Tensor workspace = torch::stable::new_empty(index, {group_rows_workspace(num_rows)}, ScalarType::Byte);
  const Launch launch(index);
  group_rows(launch.executor(), index.const_data_ptr<int64_t>(), num_rows, num_groups,
             order.mutable_data_ptr<int64_t>(), offsets.mutable_data_ptr<int64_t>(), workspace.mutable_data_ptr());
  return {order, offsets};
}

PERCEPTION_OP(group_rows, group_rows_op, "(Tensor index, int num_groups) -> (Tensor order, Tensor offsets)")

}  // namespace perception
