#include "ops/scatter_reduce.h"

#include <limits>
#include <stdexcept>
#include <tuple>

#include "ops/common.h"

namespace perception {
namespace {

Reduce parse_reduce(const std::string& name) {
  if (name == "sum") return Reduce::kSum;
  if (name == "mean") return Reduce::kMean;
  STD_TORCH_CHECK(name == "max", "scatter_reduce: reduce must be sum, mean or max, got ", name);
  return Reduce::kMax;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> scatter_reduce_op(const Tensor& features_in, const Tensor& index_in,
                                                     int64_t num_segments, const std::string& reduce_name) {
  const Tensor features = floating_input("scatter_reduce: features", features_in, {-1, -1}, features_in);
  const ScatterSizes sizes{features.size(0), num_segments, features.size(1)};
  const Tensor index = index_input("scatter_reduce: index", index_in, {sizes.num_rows}, features_in);
  STD_TORCH_CHECK(num_segments >= 0, "scatter_reduce: num_segments must not be negative, got ", num_segments);
  const Reduce reduce = parse_reduce(reduce_name);

  STD_TORCH_CHECK(reduce != Reduce::kMax || sizes.num_rows <= std::numeric_limits<int32_t>::max(),
                  "scatter_reduce: features must have fewer than 2^31 rows for max, got ", describe(features_in));

  const Launch launch(features);
  Tensor reduced = torch::stable::new_empty(features, {num_segments, sizes.channels});
  Tensor counts = torch::stable::new_empty(index, {num_segments});
  Tensor largest =
      torch::stable::new_empty(index, {reduce == Reduce::kMax ? num_segments : 0, sizes.channels}, ScalarType::Int);
  Tensor workspace = torch::stable::new_empty(index, {scatter_reduce_workspace(sizes)}, ScalarType::Byte);
  int64_t bad_row = -1;
  dispatch_floating(features, [&](auto zero) {
    using T = decltype(zero);
    bad_row =
        scatter_reduce(launch.executor(), reduce, sizes, features.const_data_ptr<T>(), index.const_data_ptr<int64_t>(),
                       reduced.mutable_data_ptr<T>(), counts.mutable_data_ptr<int64_t>(),
                       largest.mutable_data_ptr<int32_t>(), workspace.mutable_data_ptr());
  });
  if (bad_row >= 0) {
    std::ostringstream message;  // std::invalid_argument reaches Python as ValueError
    message << "scatter_reduce: index must be in [-1, " << num_segments << "), got "
            << index.const_data_ptr<int64_t>()[bad_row] << " at row " << bad_row;
    throw std::invalid_argument(message.str());
  }
  return {output_like(reduced, features_in), counts, largest};
}

Tensor scatter_reduce_backward_op(const Tensor& gradient_in, const Tensor& index_in, const Tensor& counts_in,
                                  const Tensor& largest_in, const std::string& reduce_name) {
  const Tensor gradient = floating_input("scatter_reduce_backward: gradient", gradient_in, {-1, -1}, gradient_in);
  const Tensor index = index_input("scatter_reduce_backward: index", index_in, {-1}, gradient_in);
  const ScatterSizes sizes{index.size(0), gradient.size(0), gradient.size(1)};
  const Reduce reduce = parse_reduce(reduce_name);
  const Tensor counts = index_input("scatter_reduce_backward: counts", counts_in, {sizes.num_segments}, gradient_in);
  const int64_t num_largest = reduce == Reduce::kMax ? sizes.num_segments : 0;
  check_shape("scatter_reduce_backward: largest", largest_in, {num_largest, sizes.channels}, gradient_in);
  STD_TORCH_CHECK(largest_in.scalar_type() == ScalarType::Int, "scatter_reduce_backward: largest must be int32, got ",
                  describe(largest_in));
  const Tensor largest = torch::stable::contiguous(largest_in);

  const Launch launch(gradient);
  Tensor features_gradient = torch::stable::new_empty(gradient, {sizes.num_rows, sizes.channels});
  dispatch_floating(gradient, [&](auto zero) {
    using T = decltype(zero);
    scatter_reduce_backward(launch.executor(), reduce, sizes, gradient.const_data_ptr<T>(),
                            index.const_data_ptr<int64_t>(), counts.const_data_ptr<int64_t>(),
                            largest.const_data_ptr<int32_t>(), features_gradient.mutable_data_ptr<T>());
  });
  return output_like(features_gradient, gradient_in);
}

PERCEPTION_OP(scatter_reduce, scatter_reduce_op,
              "(Tensor features, Tensor index, int num_segments, str reduce)"
              " -> (Tensor reduced, Tensor counts, Tensor largest)")
PERCEPTION_OP(scatter_reduce_backward, scatter_reduce_backward_op,
              "(Tensor gradient, Tensor index, Tensor counts, Tensor largest, str reduce) -> Tensor")

}  // namespace perception
