#include "ops/nms.h"

#include "ops/common.h"

namespace perception {

Tensor nms_rotated_op(const Tensor& boxes_in, double threshold) {
  const Tensor boxes = floating_input("nms_rotated: boxes", boxes_in, {-1, -1}, boxes_in);
  const int64_t count = boxes.size(0), columns = boxes.size(1);
  STD_TORCH_CHECK(columns >= 7, "nms_rotated: boxes must be (M, 7+), got ", describe(boxes_in));
  Tensor kept = torch::stable::new_empty(boxes, {count}, ScalarType::Bool);
  const Launch launch(boxes);
  dispatch_floating(boxes, [&](auto zero) {
    using T = decltype(zero);
    Tensor workspace = torch::stable::new_empty(boxes, {nms_rotated_workspace(count, sizeof(T))}, ScalarType::Byte);
    nms_rotated(launch.executor(), boxes.const_data_ptr<T>(), count, columns, threshold, kept.mutable_data_ptr<bool>(),
                workspace.mutable_data_ptr());
  });
  return kept;
}

Tensor nms_circle_op(const Tensor& centers_in, const Tensor& scores_in, const Tensor& order_in, double radius_m) {
  const Tensor centers = floating_input("nms_circle: centers", centers_in, {-1, 2}, centers_in);
  STD_TORCH_CHECK(centers.scalar_type() == ScalarType::Double, "nms_circle: centers must be float64, got ",
                  describe(centers_in));
  const int64_t count = centers.size(0);
  const Tensor scores = floating_input("nms_circle: scores", scores_in, {count}, centers_in);
  const Tensor order = index_input("nms_circle: order", order_in, {count}, centers_in);
  STD_TORCH_CHECK(radius_m >= 0, "nms_circle: radius_m must be 0 or more, got ", radius_m);
  Tensor kept = torch::stable::new_empty(centers, {count}, ScalarType::Bool);
  Tensor workspace = torch::stable::new_empty(centers, {nms_circle_workspace(count)}, ScalarType::Byte);
  const Launch launch(centers);
  const CircleCandidates candidates{centers.const_data_ptr<double>(), scores.const_data_ptr<double>(),
                                    order.const_data_ptr<int64_t>(), count};
  nms_circle(launch.executor(), candidates, radius_m, kept.mutable_data_ptr<bool>(), workspace.mutable_data_ptr());
  return kept;
}

PERCEPTION_OP(nms_rotated, nms_rotated_op, "(Tensor boxes, float threshold) -> Tensor")
PERCEPTION_OP(nms_circle, nms_circle_op, "(Tensor centers, Tensor scores, Tensor order, float radius_m) -> Tensor")

}  // namespace perception
