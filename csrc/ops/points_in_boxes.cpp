#include "ops/points_in_boxes.h"

#include "ops/common.h"

namespace perception {
namespace {

Tensor full_precision(const char* what, const Tensor& tensor, const Tensor& like) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float || tensor.scalar_type() == ScalarType::Double, what,
                  " must be float32 or float64, got ", describe(tensor));
  return floating_input(what, tensor, {-1, -1}, like);
}

// Calls body(input, workspace).
template <typename F>
void with_input(const Tensor& points_in, const Tensor& boxes_in, const F& body) {
  const Tensor points = full_precision("points_in_boxes: points", points_in, points_in);
  const Tensor boxes = full_precision("points_in_boxes: boxes", boxes_in, points_in);
  STD_TORCH_CHECK(points.size(1) >= 3 && boxes.size(1) >= 7,
                  "points_in_boxes: points must be (P, 3+) and boxes (M, 7+), got ", describe(points_in), " and ",
                  describe(boxes_in));
  STD_TORCH_CHECK(boxes.size(0) < kMostBoxes, "points_in_boxes: boxes must be fewer than 2^25, got ",
                  describe(boxes_in));
  Tensor workspace = torch::stable::new_empty(boxes, {points_in_boxes_workspace(boxes.size(0))}, ScalarType::Byte);
  dispatch_floating(points, [&](auto zero) {
    using T = decltype(zero);
    const PointsAndBoxes<T> input{points.const_data_ptr<T>(),
                                  boxes.const_data_ptr<T>(),
                                  points.size(0),
                                  points.size(1),
                                  boxes.size(0),
                                  boxes.size(1)};
    body(input, workspace.mutable_data_ptr());
  });
}

}  // namespace

Tensor points_in_boxes_op(const Tensor& points, const Tensor& boxes) {
  const Launch launch(points);
  Tensor first = torch::stable::new_empty(points, {points.dim() == 0 ? 0 : points.size(0)}, ScalarType::Long);
  with_input(points, boxes, [&](const auto& input, void* workspace) {
    points_in_boxes(launch.executor(), input, first.mutable_data_ptr<int64_t>(), workspace);
  });
  return first;
}

Tensor count_points_in_boxes_op(const Tensor& points, const Tensor& boxes) {
  const Launch launch(points);
  Tensor counts = torch::stable::new_empty(boxes, {boxes.dim() == 0 ? 0 : boxes.size(0)}, ScalarType::Long);
  with_input(points, boxes, [&](const auto& input, void* workspace) {
    count_points_in_boxes(launch.executor(), input, counts.mutable_data_ptr<int64_t>(), workspace);
  });
  return counts;
}

PERCEPTION_OP(points_in_boxes, points_in_boxes_op, "(Tensor points, Tensor boxes) -> Tensor")
PERCEPTION_OP(count_points_in_boxes, count_points_in_boxes_op, "(Tensor points, Tensor boxes) -> Tensor")

}  // namespace perception
