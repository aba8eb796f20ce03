#include "ops/raycast_voxels.h"

#include <tuple>
#include <vector>

#include "ops/common.h"

namespace perception {
namespace {

// All cells, those of a border around them included, are numbered with 31 bits.
bool is_small(const int64_t* count) {
  constexpr int64_t kMost = int64_t{1} << 28;
  bool small = true;
  for (int axis = 0; axis < 3; ++axis) small = small && count[axis] > 0 && count[axis] < kMost;
  if (!small || count[0] * count[1] >= kMost || count[0] * count[1] * count[2] >= kMost) return false;
  return (count[0] + 1) * (count[1] + 1) * (count[2] + 2) < int64_t{1} << 31;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> raycast_voxels_op(const Tensor& occupied_in, const Tensor& origins_in,
                                                     const Tensor& directions_in, std::vector<double> lower_m,
                                                     std::vector<double> cell_m, double max_range_m, bool mark) {
  const Tensor origins = floating_input("raycast_voxels: origins", origins_in, {-1, 3}, origins_in);
  const Tensor directions =
      floating_input("raycast_voxels: directions", directions_in, {origins.size(0), 3}, origins_in);
  check_shape("raycast_voxels: occupied", occupied_in, {-1, -1, -1}, origins_in);
  STD_TORCH_CHECK(occupied_in.scalar_type() == ScalarType::Bool, "raycast_voxels: occupied must be bool, got ",
                  describe(occupied_in));
  const int64_t count[] = {occupied_in.size(2), occupied_in.size(1), occupied_in.size(0)};
  STD_TORCH_CHECK(is_small(count), "raycast_voxels: occupied must have cells, and fewer than 2^28, got ",
                  describe(occupied_in));
  STD_TORCH_CHECK(lower_m.size() == 3 && cell_m.size() == 3,
                  "raycast_voxels: lower_m and cell_m must have three numbers each");
  const Tensor occupied = torch::stable::contiguous(occupied_in);
  const int64_t num_rays = origins.size(0);
  Tensor cells = torch::stable::new_empty(origins, {num_rays}, ScalarType::Long);
  Tensor distances = torch::stable::new_empty(origins, {num_rays});
  Tensor reached = torch::stable::new_empty(
      occupied, {mark ? occupied.size(0) : 0, mark ? occupied.size(1) : 0, mark ? occupied.size(2) : 0});
  Tensor workspace = torch::stable::new_empty(occupied, {raycast_workspace(count, mark)}, ScalarType::Byte);
  const Launch launch(origins);
  dispatch_floating(origins, [&](auto zero) {
    using T = decltype(zero);
    RaycastInput<T> input{
        origins.const_data_ptr<T>(), directions.const_data_ptr<T>(), occupied.const_data_ptr<bool>(), num_rays, {}};
    for (int axis = 0; axis < 3; ++axis) {
      input.grid.lower[axis] = static_cast<T>(lower_m[axis]);
      input.grid.cell[axis] = static_cast<T>(cell_m[axis]);
      input.grid.count[axis] = count[axis];
    }
    input.grid.stride[0] = 1;
    input.grid.stride[1] = static_cast<int32_t>(count[0]);
    input.grid.stride[2] = static_cast<int32_t>(count[0] * count[1]);
    input.grid.max_range = static_cast<T>(max_range_m);
    raycast_voxels(launch.executor(), input, cells.mutable_data_ptr<int64_t>(), distances.mutable_data_ptr<T>(),
                   mark ? reached.mutable_data_ptr<bool>() : nullptr, workspace.mutable_data_ptr());
  });
  return {cells, output_like(distances, origins_in), reached};
}

PERCEPTION_OP(raycast_voxels, raycast_voxels_op,
              "(Tensor occupied, Tensor origins, Tensor directions, float[] lower_m, float[] cell_m, float max_range_m,"
              " bool mark) -> (Tensor cells, Tensor distances, Tensor reached)")

}  // namespace perception
