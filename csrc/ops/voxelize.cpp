#include "ops/voxelize.h"

#include <tuple>
#include <vector>

#include "ops/common.h"

namespace perception {
namespace {

struct GridArguments {
  std::vector<double> lower_m;  // x y z
  std::vector<double> cell_m;   // x y z
  std::vector<int64_t> shape;   // z y x
};

template <typename T>
VoxelGrid<T> voxel_grid(const char* op, const GridArguments& arguments) {
  STD_TORCH_CHECK(arguments.lower_m.size() == 3 && arguments.cell_m.size() == 3 && arguments.shape.size() == 3, op,
                  ": lower_m, cell_m and shape must have three numbers each");
  VoxelGrid<T> grid;
  for (int axis = 0; axis < 3; ++axis) {
    grid.lower[axis] = static_cast<T>(arguments.lower_m[axis]);
    grid.cell[axis] = static_cast<T>(arguments.cell_m[axis]);
    grid.count[axis] = arguments.shape[2 - axis];
    STD_TORCH_CHECK(grid.count[axis] > 0, op, ": shape must be positive, got ", grid.count[axis]);
  }
  return grid;
}

struct Assignment {
  Tensor coords;       // (V, 4)
  Tensor point2voxel;  // (P)
};

Assignment assign_voxels(const char* op, const Launch& launch, const Tensor& points, const Tensor& batch_index,
                         const GridArguments& grid, int64_t max_voxels) {
  const int64_t num_points = points.size(0);
  Tensor keys = torch::stable::new_empty(batch_index, {num_points});
  Tensor point2voxel = torch::stable::new_empty(batch_index, {num_points});
  Tensor coords;
  dispatch_floating(points, [&](auto zero) {
    using T = decltype(zero);
    const VoxelizeInput<T> input{
        points.const_data_ptr<T>(), batch_index.const_data_ptr<int64_t>(), num_points, points.size(1), max_voxels,
        voxel_grid<T>(op, grid)};
    Tensor workspace = torch::stable::new_empty(batch_index, {assign_voxels_workspace(input)}, ScalarType::Byte);
    const int64_t num_voxels = assign_voxels(launch.executor(), input, point2voxel.mutable_data_ptr<int64_t>(),
                                             keys.mutable_data_ptr<int64_t>(), workspace.mutable_data_ptr());
    coords = torch::stable::new_empty(batch_index, {num_voxels, 4});
    locate_voxels(launch.executor(), input.grid, keys.const_data_ptr<int64_t>(), num_voxels,
                  coords.mutable_data_ptr<int64_t>());
  });
  return {coords, point2voxel};
}

Tensor checked_points(const char* op, const Tensor& points) {
  const std::string what = std::string(op) + ": points";
  STD_TORCH_CHECK(points.scalar_type() == ScalarType::Float || points.scalar_type() == ScalarType::Double, what,
                  " must be float32 or float64, got ", describe(points));
  STD_TORCH_CHECK(points.dim() == 2 && points.size(1) >= 3, what, " must be (P, 3+), got ", describe(points));
  return floating_input(what.c_str(), points, {-1, -1}, points);
}

}  // namespace

std::tuple<Tensor, Tensor> voxelize_dynamic_op(const Tensor& points_in, const Tensor& batch_index_in,
                                               std::vector<double> lower_m, std::vector<double> cell_m,
                                               std::vector<int64_t> shape, int64_t max_voxels) {
  const char* const op = "voxelize_dynamic";
  const Tensor points = checked_points(op, points_in);
  const Tensor batch_index = index_input("voxelize_dynamic: batch_index", batch_index_in, {points.size(0)}, points_in);
  const Launch launch(points);
  const Assignment voxels = assign_voxels(op, launch, points, batch_index, {lower_m, cell_m, shape}, max_voxels);
  return {voxels.coords, voxels.point2voxel};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> voxelize_hard_op(const Tensor& points_in, const Tensor& batch_index_in,
                                                            std::vector<double> lower_m, std::vector<double> cell_m,
                                                            std::vector<int64_t> shape, int64_t max_voxels,
                                                            int64_t max_points) {
  const char* const op = "voxelize_hard";
  const Tensor points = checked_points(op, points_in);
  const Tensor batch_index = index_input("voxelize_hard: batch_index", batch_index_in, {points.size(0)}, points_in);
  STD_TORCH_CHECK(max_points > 0, "voxelize_hard: max_points must be positive, got ", max_points);
  const Launch launch(points);
  const Assignment assigned = assign_voxels(op, launch, points, batch_index, {lower_m, cell_m, shape}, max_voxels);
  const GatherSizes sizes{points.size(0), assigned.coords.size(0), max_points, points.size(1)};
  Tensor voxels = torch::stable::new_empty(points, {sizes.num_voxels, max_points, sizes.columns});
  Tensor counts = torch::stable::new_empty(batch_index, {sizes.num_voxels});
  Tensor workspace = torch::stable::new_empty(batch_index, {gather_voxels_workspace(sizes)}, ScalarType::Byte);
  dispatch_floating(points, [&](auto zero) {
    using T = decltype(zero);
    gather_voxels(launch.executor(), sizes, points.const_data_ptr<T>(), assigned.point2voxel.const_data_ptr<int64_t>(),
                  voxels.mutable_data_ptr<T>(), counts.mutable_data_ptr<int64_t>(), workspace.mutable_data_ptr());
  });
  return {voxels, counts, assigned.coords, assigned.point2voxel};
}

PERCEPTION_OP(voxelize_dynamic, voxelize_dynamic_op,
              "(Tensor points, Tensor batch_index, float[] lower_m, float[] cell_m, int[] shape, int max_voxels)"
              " -> (Tensor coords, Tensor point2voxel)")
PERCEPTION_OP(voxelize_hard, voxelize_hard_op,
              "(Tensor points, Tensor batch_index, float[] lower_m, float[] cell_m, int[] shape, int max_voxels,"
              " int max_points) -> (Tensor voxels, Tensor num_points, Tensor coords, Tensor point2voxel)")

}  // namespace perception
