#include "ops/radar_splat.h"

#include <tuple>
#include <vector>

#include "ops/common.h"
#include "ops/row_groups.h"

namespace perception {
namespace {

Tensor geometry_input(const char* what, const Tensor& tensor, std::initializer_list<int64_t> sizes,
                      const Tensor& like) {
  check_shape(what, tensor, sizes, like);
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Double, what, " must be float64, got ", describe(tensor));
  return torch::stable::contiguous(tensor);
}

// lower_m and cell_m are x y, shape is samples, rows, columns.
BevGrid bev_grid(const std::vector<double>& lower_m, const std::vector<double>& cell_m,
                 const std::vector<int64_t>& shape) {
  STD_TORCH_CHECK(lower_m.size() == 2 && cell_m.size() == 2 && shape.size() == 3,
                  "radar_splat: lower_m, cell_m and shape must have two, two and three numbers");
  STD_TORCH_CHECK(cell_m[0] > 0 && cell_m[1] > 0 && shape[0] >= 0 && shape[1] > 0 && shape[2] > 0,
                  "radar_splat: cell_m and shape must be positive");
  return {{lower_m[0], lower_m[1]}, {cell_m[0], cell_m[1]}, shape[2], shape[1]};
}

// The fake kernel counts on this size.
static_assert(sizeof(RadarFootprint) == 80);

Tensor footprint_buffer(const Tensor& positions) {
  const int64_t bytes = positions.size(0) * static_cast<int64_t>(sizeof(RadarFootprint));
  return torch::stable::new_empty(positions, {bytes}, ScalarType::Byte);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> radar_splat_op(const Tensor& features_in, const Tensor& positions_in,
                                                  const Tensor& covariances_in, const Tensor& velocities_in,
                                                  const Tensor& batch_index_in, const std::vector<double>& lower_m,
                                                  const std::vector<double>& cell_m,
                                                  const std::vector<int64_t>& shape) {
  const BevGrid grid = bev_grid(lower_m, cell_m, shape);
  const Tensor features = floating_input("radar_splat: features", features_in, {-1, -1}, features_in);
  const int64_t count = features.size(0);
  const RadarSplatSizes sizes{shape[0], features.size(1)};
  const Tensor positions = geometry_input("radar_splat: positions", positions_in, {count, 2}, features_in);
  const Tensor covariances = geometry_input("radar_splat: covariances", covariances_in, {count, 2, 2}, features_in);
  const Tensor velocities = geometry_input("radar_splat: velocities", velocities_in, {count, 2}, features_in);
  const Tensor batch_index = index_input("radar_splat: batch_index", batch_index_in, {count}, features_in);

  const Launch launch(features_in);
  const RowGroups groups = group_rows("radar_splat", launch, batch_index, sizes.samples);
  Tensor footprints = footprint_buffer(positions);
  auto* const shapes = static_cast<RadarFootprint*>(footprints.mutable_data_ptr());
  radar_footprints(launch.executor(), grid,
                   {count, positions.const_data_ptr<double>(), covariances.const_data_ptr<double>(),
                    velocities.const_data_ptr<double>()},
                   shapes);
  Tensor bev = torch::stable::new_empty(features, {shape[0], shape[1], shape[2], sizes.channels});
  Tensor motion = torch::stable::new_empty(features, {shape[0], shape[1], shape[2], kMotionChannels});
  dispatch_floating(features, [&](auto zero) {
    using T = decltype(zero);
    radar_splat(launch.executor(), grid, sizes, shapes, velocities.const_data_ptr<double>(),
                groups.order.const_data_ptr<int64_t>(), groups.offsets.const_data_ptr<int64_t>(),
                features.const_data_ptr<T>(), bev.mutable_data_ptr<T>(), motion.mutable_data_ptr<T>());
  });
  return {output_like(bev, features_in), output_like(motion, features_in), footprints};
}

Tensor radar_splat_backward_op(const Tensor& gradient_in, const Tensor& footprints, const Tensor& batch_index_in,
                               const std::vector<double>& lower_m, const std::vector<double>& cell_m,
                               const std::vector<int64_t>& shape) {
  const BevGrid grid = bev_grid(lower_m, cell_m, shape);
  const Tensor gradient =
      floating_input("radar_splat_backward: gradient", gradient_in, {shape[0], shape[1], shape[2], -1}, gradient_in);
  const Tensor batch_index = index_input("radar_splat_backward: batch_index", batch_index_in, {-1}, gradient_in);
  const int64_t count = batch_index.size(0);
  check_shape("radar_splat_backward: footprints", footprints, {count * static_cast<int64_t>(sizeof(RadarFootprint))},
              gradient_in);
  const RadarSplatSizes sizes{shape[0], gradient.size(3)};
  Tensor features_gradient = torch::stable::new_empty(gradient, {count, sizes.channels});
  const Launch launch(gradient_in);
  dispatch_floating(gradient, [&](auto zero) {
    using T = decltype(zero);
    radar_splat_backward(
        launch.executor(), grid, sizes, count, static_cast<const RadarFootprint*>(footprints.const_data_ptr()),
        batch_index.const_data_ptr<int64_t>(), gradient.const_data_ptr<T>(), features_gradient.mutable_data_ptr<T>());
  });
  return output_like(features_gradient, gradient_in);
}

PERCEPTION_OP(radar_splat, radar_splat_op,
              "(Tensor features, Tensor positions, Tensor covariances, Tensor velocities, Tensor batch_index,"
              " float[] lower_m, float[] cell_m, int[] shape) -> (Tensor bev, Tensor motion, Tensor footprints)")
PERCEPTION_OP(radar_splat_backward, radar_splat_backward_op,
              "(Tensor gradient, Tensor footprints, Tensor batch_index, float[] lower_m, float[] cell_m, int[] shape)"
              " -> Tensor")

}  // namespace perception
