#include "ops/box_iou_rotated.h"

#include "ops/common.h"

namespace perception {

Tensor box_iou_rotated_op(const Tensor& boxes_a_in, const Tensor& boxes_b_in, bool volume) {
  const Tensor boxes_a = floating_input("box_iou_rotated: boxes_a", boxes_a_in, {-1, -1}, boxes_a_in);
  const BoxPairs pairs{boxes_a.size(0), boxes_b_in.dim() == 0 ? 0 : boxes_b_in.size(0), boxes_a.size(1), volume};
  STD_TORCH_CHECK(pairs.columns >= 7, "box_iou_rotated: boxes_a must be (M, 7+), got ", describe(boxes_a_in));
  const Tensor boxes_b = floating_input("box_iou_rotated: boxes_b", boxes_b_in, {-1, pairs.columns}, boxes_a_in);
  Tensor iou = torch::stable::new_empty(boxes_a, {pairs.num_a, pairs.num_b});
  const Launch launch(boxes_a);
  dispatch_floating(boxes_a, [&](auto zero) {
    using T = decltype(zero);
    Tensor workspace = torch::stable::new_empty(boxes_a, {box_iou_rotated_workspace(pairs)});
    box_iou_rotated(launch.executor(), pairs, boxes_a.const_data_ptr<T>(), boxes_b.const_data_ptr<T>(),
                    iou.mutable_data_ptr<T>(), workspace.mutable_data_ptr<T>());
  });
  return output_like(iou, boxes_a_in);
}

PERCEPTION_OP(box_iou_rotated, box_iou_rotated_op, "(Tensor boxes_a, Tensor boxes_b, bool volume) -> Tensor")

}  // namespace perception
