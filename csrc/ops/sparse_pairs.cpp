#include "ops/sparse_pairs.h"

#include <limits>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "ops/common.h"

namespace perception {
namespace {

using Numbers = std::vector<int64_t>;

constexpr int64_t kInt32Limit = int64_t{1} << 31;

// Sizes below 2^31 keep sums and products of two within 64 bits.
void copy_three(const char* what, const Numbers& numbers, int64_t least, int64_t* target, int64_t limit = kInt32Limit) {
  STD_TORCH_CHECK(numbers.size() == 3, what, " must be three numbers z y x, got ", numbers.size());
  for (int axis = 0; axis < 3; ++axis) {
    STD_TORCH_CHECK(numbers[axis] >= least, what, " must be at least ", least, ", got ", numbers[axis]);
    STD_TORCH_CHECK(numbers[axis] < limit, what, " must be below ", limit, ", got ", numbers[axis]);
    target[axis] = numbers[axis];
  }
}

void check_product(const char* what, const int64_t* sizes, int64_t limit) {
  const int64_t room = (limit - 1) / sizes[0] / sizes[1] / sizes[2];
  STD_TORCH_CHECK(room > 0, what, " must multiply to less than ", limit, ", got (", sizes[0], ", ", sizes[1], ", ",
                  sizes[2], ")");
}

struct Coords {
  Tensor tensor;
  SparseVoxels voxels() const { return {tensor.const_data_ptr<int64_t>(), tensor.size(0)}; }
};

Coords checked_coords(const char* what, const Tensor& coords) {
  Coords checked{index_input(what, coords, {-1, 4}, coords)};
  STD_TORCH_CHECK(coords.size(0) < kInt32Limit, what, " must be fewer than 2^31 voxels, got ", describe(coords));
  return checked;
}

[[noreturn]] void reject_voxel(const char* op, const SparseGeometry& geometry, const int64_t* coords, int64_t voxel) {
  std::ostringstream message;  // std::invalid_argument reaches Python as ValueError
  message << op << ": coords must be distinct voxels in (" << geometry.in_shape[0] << ", " << geometry.in_shape[1]
          << ", " << geometry.in_shape[2] << ") of samples below 2^22, got (" << coords[0] << ", " << coords[1] << ", "
          << coords[2] << ", " << coords[3] << ") at row " << voxel;
  throw std::invalid_argument(message.str());
}

// Holds what kernels take as scratch.
class ScratchTensors {
 public:
  explicit ScratchTensors(const Tensor& like) : like_(like) {}
  ScratchTensors(const ScratchTensors&) = delete;
  ScratchTensors& operator=(const ScratchTensors&) = delete;

  Scratch scratch() {
    const auto take = [](int64_t count, void* self) { return static_cast<ScratchTensors*>(self)->take(count); };
    return {take, this};
  }

 private:
  void* take(int64_t count) {
    tensors_.push_back(torch::stable::new_empty(like_, {count}, ScalarType::Byte));
    return tensors_.back().mutable_data_ptr();
  }

  Tensor like_;
  std::vector<Tensor> tensors_;
};

struct Pairs {
  Tensor sources;  // (pairs)
  Tensor targets;  // (pairs)
  Tensor offsets;  // (num_offsets + 1)
};

Pairs pairs_of(const Launch& launch, const Tensor& like, const SparseGeometry& geometry, const FoundPairs& found,
               PairTargets ends) {
  const Pairs pairs{torch::stable::new_empty(like, {found.num_pairs}),
                    torch::stable::new_empty(like, {found.num_pairs}),
                    torch::stable::new_empty(like, {geometry.num_offsets() + 1})};
  list_pairs(launch.executor(), found, ends, pairs.offsets.mutable_data_ptr<int64_t>(),
             pairs.sources.mutable_data_ptr<int64_t>(), pairs.targets.mutable_data_ptr<int64_t>());
  return pairs;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> submanifold_pairs_op(const Tensor& coords_in, Numbers shape, Numbers kernel,
                                                        Numbers dilation) {
  SparseGeometry geometry{{1, 1, 1}, {1, 1, 1}, {}, {}, {}, {}};
  copy_three("submanifold_pairs: shape", shape, 1, geometry.in_shape, kCellLimit);
  copy_three("submanifold_pairs: shape", shape, 1, geometry.out_shape, kCellLimit);
  copy_three("submanifold_pairs: kernel", kernel, 1, geometry.kernel);
  copy_three("submanifold_pairs: dilation", dilation, 1, geometry.dilation);
  check_product("submanifold_pairs: shape", geometry.in_shape, kCellLimit);
  check_product("submanifold_pairs: kernel", geometry.kernel, kInt32Limit);
  for (int axis = 0; axis < 3; ++axis) {
    STD_TORCH_CHECK(kernel[axis] % 2 == 1, "submanifold_pairs: kernel must be odd, got ", kernel[axis]);
    geometry.padding[axis] = dilation[axis] * (kernel[axis] / 2);
  }
  const Coords coords = checked_coords("submanifold_pairs: coords", coords_in);
  const Launch launch(coords.tensor);
  ScratchTensors memory(coords.tensor);
  const FoundPairs found = find_submanifold_pairs(launch.executor(), memory.scratch(), geometry, coords.voxels());
  if (found.bad_voxel >= 0) {
    reject_voxel("submanifold_pairs", geometry, coords.voxels().coords + 4 * found.bad_voxel, found.bad_voxel);
  }
  const Pairs pairs = pairs_of(launch, coords.tensor, geometry, found, PairTargets::kOutputs);
  return {pairs.sources, pairs.targets, pairs.offsets};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> strided_pairs_op(const Tensor& coords_in, Numbers shape,
                                                                            Numbers kernel, Numbers stride,
                                                                            Numbers padding, Numbers dilation) {
  const char* const op = "strided_pairs";
  SparseGeometry geometry{};
  copy_three("strided_pairs: shape", shape, 1, geometry.in_shape, kCellLimit);
  copy_three("strided_pairs: kernel", kernel, 1, geometry.kernel);
  copy_three("strided_pairs: stride", stride, 1, geometry.stride);
  copy_three("strided_pairs: padding", padding, 0, geometry.padding);
  copy_three("strided_pairs: dilation", dilation, 1, geometry.dilation);
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t free = shape[axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1;
    STD_TORCH_CHECK(free >= 0, op, ": kernel must fit into the padded shape, got ", kernel[axis], " along axis ", axis);
    geometry.out_shape[axis] = free / stride[axis] + 1;
  }
  check_product("strided_pairs: shape", geometry.in_shape, kCellLimit);
  check_product("strided_pairs: shape of the result", geometry.out_shape, kCellLimit);
  check_product("strided_pairs: kernel", geometry.kernel, kInt32Limit);
  const Coords coords = checked_coords("strided_pairs: coords", coords_in);
  const Launch launch(coords.tensor);
  ScratchTensors memory(coords.tensor);
  const FoundPairs found = find_strided_pairs(launch.executor(), memory.scratch(), geometry, coords.voxels());
  if (found.bad_voxel >= 0) reject_voxel(op, geometry, coords.voxels().coords + 4 * found.bad_voxel, found.bad_voxel);
  STD_TORCH_CHECK(found.num_outputs < kInt32Limit, op, ": coords must give fewer than 2^31 voxels, got ",
                  found.num_outputs);
  const Tensor outputs = torch::stable::new_empty(coords.tensor, {found.num_outputs, 4});
  list_outputs(launch.executor(), found, outputs.mutable_data_ptr<int64_t>());
  const Pairs forward = pairs_of(launch, coords.tensor, geometry, found, PairTargets::kOutputs);
  const Pairs backward = pairs_of(launch, coords.tensor, geometry, found, PairTargets::kInputs);
  return {outputs, forward.sources, forward.targets, backward.sources, backward.targets, forward.offsets};
}

PERCEPTION_OP(submanifold_pairs, submanifold_pairs_op,
              "(Tensor coords, int[] shape, int[] kernel, int[] dilation) -> (Tensor sources, Tensor targets,"
              " Tensor offsets)")
PERCEPTION_OP(strided_pairs, strided_pairs_op,
              "(Tensor coords, int[] shape, int[] kernel, int[] stride, int[] padding, int[] dilation)"
              " -> (Tensor out_coords, Tensor sources, Tensor targets, Tensor back_sources, Tensor back_targets,"
              " Tensor offsets)")

}  // namespace perception
