#include "ops/sparse_pairs.h"

#include <limits>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "ops/common.h"

namespace perception {
namespace {

using Numbers = std::vector<int64_t>;

void copy_three(const char* what, const Numbers& numbers, int64_t least, int64_t* target) {
  STD_TORCH_CHECK(numbers.size() == 3, what, " must be three numbers z y x, got ", numbers.size());
  for (int axis = 0; axis < 3; ++axis) {
    STD_TORCH_CHECK(numbers[axis] >= least, what, " must be at least ", least, ", got ", numbers[axis]);
    target[axis] = numbers[axis];
  }
}

struct Coords {
  Tensor tensor;
  SparseVoxels voxels() const { return {tensor.const_data_ptr<int64_t>(), tensor.size(0)}; }
};

Coords checked_coords(const char* what, const Tensor& coords, const SparseGeometry& geometry) {
  Coords checked{index_input(what, coords, {-1, 4}, coords)};
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(most_outputs(geometry, checked.tensor.size(0)) < kMost, what,
                  " must give fewer than 2^31 voxels, got ", describe(coords));
  return checked;
}

[[noreturn]] void reject_voxel(const char* op, const SparseGeometry& geometry, const int64_t* coords, int64_t voxel) {
  std::ostringstream message;  // std::invalid_argument reaches Python as ValueError
  message << op << ": coords must be distinct voxels in (" << geometry.in_shape[0] << ", " << geometry.in_shape[1]
          << ", " << geometry.in_shape[2] << ") of samples from 0, got (" << coords[0] << ", " << coords[1] << ", "
          << coords[2] << ", " << coords[3] << ") at row " << voxel;
  throw std::invalid_argument(message.str());
}

Tensor bytes(const Tensor& like, int64_t count) { return torch::stable::new_empty(like, {count}, ScalarType::Byte); }

struct Pairs {
  Tensor sources;  // (pairs)
  Tensor targets;  // (pairs)
  Tensor offsets;  // (num_offsets + 1)
};

Pairs pairs_of(const Launch& launch, const Tensor& like, const PairTable& table) {
  Tensor workspace = bytes(like, pairs_workspace(table));
  Tensor offsets = torch::stable::new_empty(like, {table.num_offsets + 1});
  const int64_t num_pairs =
      count_pairs(launch.executor(), table, offsets.mutable_data_ptr<int64_t>(), workspace.mutable_data_ptr());
  Tensor sources = torch::stable::new_empty(like, {num_pairs});
  Tensor targets = torch::stable::new_empty(like, {num_pairs});
  list_pairs(launch.executor(), table, offsets.const_data_ptr<int64_t>(), workspace.const_data_ptr(),
             sources.mutable_data_ptr<int64_t>(), targets.mutable_data_ptr<int64_t>());
  return {sources, targets, offsets};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> submanifold_pairs_op(const Tensor& coords_in, Numbers shape, Numbers kernel,
                                                        Numbers dilation) {
  const char* const op = "submanifold_pairs";
  SparseGeometry geometry{{1, 1, 1}, {1, 1, 1}, {}, {}, {}, {}};
  copy_three("submanifold_pairs: shape", shape, 1, geometry.in_shape);
  copy_three("submanifold_pairs: shape", shape, 1, geometry.out_shape);
  copy_three("submanifold_pairs: dilation", dilation, 1, geometry.dilation);
  const Coords coords = checked_coords("submanifold_pairs: coords", coords_in, geometry);
  copy_three("submanifold_pairs: kernel", kernel, 1, geometry.kernel);
  for (int axis = 0; axis < 3; ++axis) {
    STD_TORCH_CHECK(kernel[axis] % 2 == 1, op, ": kernel must be odd, got ", kernel[axis]);
    geometry.padding[axis] = dilation[axis] * (kernel[axis] / 2);
  }
  const int64_t count = coords.voxels().count, num_offsets = geometry.num_offsets();
  const Launch launch(coords.tensor);
  Tensor table = torch::stable::new_empty(coords.tensor, {num_offsets, count}, ScalarType::Int);
  Tensor workspace = bytes(coords.tensor, table_workspace(geometry, count, false));
  const int64_t bad_voxel = submanifold_table(launch.executor(), geometry, coords.voxels(),
                                              table.mutable_data_ptr<int32_t>(), workspace.mutable_data_ptr());
  if (bad_voxel >= 0) reject_voxel(op, geometry, coords.voxels().coords + 4 * bad_voxel, bad_voxel);
  const Pairs pairs = pairs_of(launch, coords.tensor, {table.const_data_ptr<int32_t>(), num_offsets, count});
  return {pairs.sources, pairs.targets, pairs.offsets};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> strided_pairs_op(const Tensor& coords_in, Numbers shape,
                                                                            Numbers kernel, Numbers stride,
                                                                            Numbers padding, Numbers dilation) {
  const char* const op = "strided_pairs";
  SparseGeometry geometry{};
  copy_three("strided_pairs: shape", shape, 1, geometry.in_shape);
  copy_three("strided_pairs: kernel", kernel, 1, geometry.kernel);
  copy_three("strided_pairs: stride", stride, 1, geometry.stride);
  copy_three("strided_pairs: padding", padding, 0, geometry.padding);
  copy_three("strided_pairs: dilation", dilation, 1, geometry.dilation);
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t free = shape[axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1;
    STD_TORCH_CHECK(free >= 0, op, ": kernel must fit into the padded shape, got ", kernel[axis], " along axis ", axis);
    geometry.out_shape[axis] = free / stride[axis] + 1;
  }
  const Coords coords = checked_coords("strided_pairs: coords", coords_in, geometry);
  const int64_t count = coords.voxels().count, num_offsets = geometry.num_offsets();
  const Launch launch(coords.tensor);
  Tensor by_input = torch::stable::new_empty(coords.tensor, {num_offsets, count}, ScalarType::Int);
  Tensor outputs = torch::stable::new_empty(coords.tensor, {most_outputs(geometry, count), 4});
  Tensor workspace = bytes(coords.tensor, table_workspace(geometry, count, true));
  const StridedOutputs found =
      strided_table(launch.executor(), geometry, coords.voxels(), by_input.mutable_data_ptr<int32_t>(),
                    outputs.mutable_data_ptr<int64_t>(), workspace.mutable_data_ptr());
  if (found.bad_voxel >= 0) reject_voxel(op, geometry, coords.voxels().coords + 4 * found.bad_voxel, found.bad_voxel);
  Tensor by_output = torch::stable::new_empty(coords.tensor, {num_offsets, found.count}, ScalarType::Int);
  const PairTable input_table{by_input.const_data_ptr<int32_t>(), num_offsets, count};
  invert_table(launch.executor(), input_table, found.count, by_output.mutable_data_ptr<int32_t>());
  const Pairs backward = pairs_of(launch, coords.tensor, input_table);
  const Pairs forward =
      pairs_of(launch, coords.tensor, {by_output.const_data_ptr<int32_t>(), num_offsets, found.count});
  STD_TORCH_CHECK(forward.sources.size(0) == backward.sources.size(0), op, ": coords must be distinct voxels");
  return {torch::stable::clone(torch::stable::narrow(outputs, 0, 0, found.count)),
          forward.sources,
          forward.targets,
          backward.sources,
          backward.targets,
          forward.offsets};
}

PERCEPTION_OP(submanifold_pairs, submanifold_pairs_op,
              "(Tensor coords, int[] shape, int[] kernel, int[] dilation) -> (Tensor sources, Tensor targets,"
              " Tensor offsets)")
PERCEPTION_OP(strided_pairs, strided_pairs_op,
              "(Tensor coords, int[] shape, int[] kernel, int[] stride, int[] padding, int[] dilation)"
              " -> (Tensor out_coords, Tensor sources, Tensor targets, Tensor back_sources, Tensor back_targets,"
              " Tensor offsets)")

}  // namespace perception
