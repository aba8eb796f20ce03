#include "ops/echo_splat.h"

#include <tuple>
#include <vector>

#include "ops/common.h"
#include "ops/row_groups.h"

namespace perception {
namespace {

Tensor double_input(const char* what, const Tensor& tensor, std::initializer_list<int64_t> sizes, const Tensor& like) {
  check_shape(what, tensor, sizes, like);
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Double, what, " must be float64, got ", describe(tensor));
  return torch::stable::contiguous(tensor);
}

// lower_m and cell_m are x y, shape is samples, rows, columns.
EchoGrid echo_grid(const std::vector<double>& lower_m, const std::vector<double>& cell_m,
                   const std::vector<int64_t>& shape) {
  STD_TORCH_CHECK(lower_m.size() == 2 && cell_m.size() == 2 && shape.size() == 3,
                  "echo_splat: lower_m, cell_m and shape must have two, two and three numbers");
  STD_TORCH_CHECK(cell_m[0] > 0 && cell_m[1] > 0 && shape[0] >= 0 && shape[1] > 0 && shape[2] > 0,
                  "echo_splat: cell_m and shape must be positive");
  return {{lower_m[0], lower_m[1]}, {cell_m[0], cell_m[1]}, shape[2], shape[1]};
}

struct EchoInputs {
  Tensor amplitude;
  Tensor sigma;
  Tensor geometry;
  Tensor kind;
  Tensor batch_index;

  EchoTable table() const {
    return {amplitude.size(0), geometry.const_data_ptr<double>(), amplitude.const_data_ptr<double>(),
            sigma.const_data_ptr<double>(), kind.const_data_ptr<int64_t>()};
  }
};

EchoInputs checked_echoes(const Tensor& amplitude, const Tensor& sigma, const Tensor& geometry, const Tensor& kind,
                          const Tensor& batch_index) {
  check_shape("echo_splat: amplitude", amplitude, {-1}, amplitude);
  const int64_t count = amplitude.size(0);
  return {double_input("echo_splat: amplitude", amplitude, {count}, amplitude),
          double_input("echo_splat: sigma", sigma, {count}, amplitude),
          double_input("echo_splat: geometry", geometry, {count, kEchoColumns}, amplitude),
          index_input("echo_splat: kind", kind, {count}, amplitude),
          index_input("echo_splat: batch_index", batch_index, {count}, amplitude)};
}

}  // namespace

std::tuple<Tensor, Tensor> echo_splat_op(const Tensor& amplitude, const Tensor& sigma, const Tensor& geometry,
                                         const Tensor& kind, const Tensor& batch_index,
                                         const std::vector<double>& lower_m, const std::vector<double>& cell_m,
                                         const std::vector<int64_t>& shape) {
  const EchoGrid grid = echo_grid(lower_m, cell_m, shape);
  const EchoInputs echoes = checked_echoes(amplitude, sigma, geometry, kind, batch_index);
  const Launch launch(amplitude);
  const RowGroups groups = group_rows("echo_splat", launch, echoes.batch_index, shape[0]);
  Tensor bev = torch::stable::new_empty(echoes.amplitude, {shape[0], kEchoBevChannels, shape[1], shape[2]});
  Tensor products = torch::stable::new_empty(echoes.amplitude, {shape[0], kEchoProductChannels, shape[1], shape[2]});
  echo_splat(launch.executor(), grid, shape[0], echoes.table(), groups.order.const_data_ptr<int64_t>(),
             groups.offsets.const_data_ptr<int64_t>(), bev.mutable_data_ptr<double>(),
             products.mutable_data_ptr<double>());
  return {bev, products};
}

std::tuple<Tensor, Tensor> echo_splat_backward_op(const Tensor& gradient_in, const Tensor& products_in,
                                                  const Tensor& amplitude, const Tensor& sigma, const Tensor& geometry,
                                                  const Tensor& kind, const Tensor& batch_index,
                                                  const std::vector<double>& lower_m, const std::vector<double>& cell_m,
                                                  const std::vector<int64_t>& shape) {
  const EchoGrid grid = echo_grid(lower_m, cell_m, shape);
  const EchoInputs echoes = checked_echoes(amplitude, sigma, geometry, kind, batch_index);
  const Tensor gradient = double_input("echo_splat_backward: gradient", gradient_in,
                                       {shape[0], kEchoBevChannels, shape[1], shape[2]}, amplitude);
  const Tensor products = double_input("echo_splat_backward: products", products_in,
                                       {shape[0], kEchoProductChannels, shape[1], shape[2]}, amplitude);
  Tensor amplitude_gradient = torch::stable::empty_like(echoes.amplitude);
  Tensor sigma_gradient = torch::stable::empty_like(echoes.sigma);
  const Launch launch(amplitude);
  echo_splat_backward(launch.executor(), grid, shape[0], echoes.table(), echoes.batch_index.const_data_ptr<int64_t>(),
                      gradient.const_data_ptr<double>(), products.const_data_ptr<double>(),
                      amplitude_gradient.mutable_data_ptr<double>(), sigma_gradient.mutable_data_ptr<double>());
  return {amplitude_gradient, sigma_gradient};
}

PERCEPTION_OP(echo_splat, echo_splat_op,
              "(Tensor amplitude, Tensor sigma, Tensor geometry, Tensor kind, Tensor batch_index, float[] lower_m,"
              " float[] cell_m, int[] shape) -> (Tensor bev, Tensor products)")
PERCEPTION_OP(echo_splat_backward, echo_splat_backward_op,
              "(Tensor gradient, Tensor products, Tensor amplitude, Tensor sigma, Tensor geometry, Tensor kind,"
              " Tensor batch_index, float[] lower_m, float[] cell_m, int[] shape) -> (Tensor amplitude, Tensor sigma)")

}  // namespace perception
