#include "ops/bev_pool.h"

#include <tuple>

#include "ops/common.h"

namespace perception {

Tensor bev_pool_op(const Tensor& depth_in, const Tensor& features_in, const Tensor& cells, const Tensor& points_in,
                   const Tensor& pixels_in, const Tensor& offsets_in) {
  const Tensor depth = floating_input("bev_pool: depth", depth_in, {-1, -1, -1, -1, -1}, depth_in);
  const int64_t samples = depth.size(0), cameras = depth.size(1), bins = depth.size(2);
  const int64_t rows = depth.size(3), columns = depth.size(4);
  const Tensor features =
      floating_input("bev_pool: features", features_in, {samples, cameras, rows, columns, -1}, depth_in);
  check_shape("bev_pool: cells", cells, {samples, cameras, bins, rows, columns}, depth_in);
  const Tensor points = index_input("bev_pool: points", points_in, {-1}, depth_in);
  const Tensor pixels = index_input("bev_pool: pixels", pixels_in, {points.size(0)}, depth_in);
  const Tensor offsets = index_input("bev_pool: offsets", offsets_in, {-1}, depth_in);
  STD_TORCH_CHECK(offsets.size(0) > 0, "bev_pool: offsets must not be empty");

  const BevPoolSizes sizes{samples * cameras, bins, rows * columns, features.size(4), offsets.size(0) - 1};
  Tensor bev = torch::stable::new_empty(depth, {sizes.num_cells, sizes.channels});
  const Launch launch(depth);
  dispatch_floating(depth, [&](auto zero) {
    using T = decltype(zero);
    bev_pool(launch.executor(), sizes, depth.const_data_ptr<T>(), features.const_data_ptr<T>(),
             points.const_data_ptr<int64_t>(), pixels.const_data_ptr<int64_t>(), offsets.const_data_ptr<int64_t>(),
             bev.mutable_data_ptr<T>());
  });
  return output_like(bev, depth_in);
}

std::tuple<Tensor, Tensor> bev_pool_backward_op(const Tensor& gradient_in, const Tensor& depth_in,
                                                const Tensor& features_in, const Tensor& cells_in) {
  const Tensor gradient = floating_input("bev_pool_backward: gradient", gradient_in, {-1, -1}, gradient_in);
  const Tensor depth = floating_input("bev_pool_backward: depth", depth_in, {-1, -1, -1, -1, -1}, gradient_in);
  const int64_t samples = depth.size(0), cameras = depth.size(1), bins = depth.size(2);
  const int64_t rows = depth.size(3), columns = depth.size(4), channels = gradient.size(1);
  const Tensor features = floating_input("bev_pool_backward: features", features_in,
                                         {samples, cameras, rows, columns, channels}, gradient_in);
  const Tensor cells =
      index_input("bev_pool_backward: cells", cells_in, {samples, cameras, bins, rows, columns}, gradient_in);

  const BevPoolSizes sizes{samples * cameras, bins, rows * columns, channels, gradient.size(0)};
  Tensor depth_gradient = torch::stable::empty_like(depth);
  Tensor features_gradient = torch::stable::empty_like(features);
  const Launch launch(gradient);
  dispatch_floating(gradient, [&](auto zero) {
    using T = decltype(zero);
    bev_pool_backward(launch.executor(), sizes, gradient.const_data_ptr<T>(), depth.const_data_ptr<T>(),
                      features.const_data_ptr<T>(), cells.const_data_ptr<int64_t>(),
                      depth_gradient.mutable_data_ptr<T>(), features_gradient.mutable_data_ptr<T>());
  });
  return {output_like(depth_gradient, depth_in), output_like(features_gradient, features_in)};
}

PERCEPTION_OP(bev_pool, bev_pool_op,
              "(Tensor depth, Tensor features, Tensor cells, Tensor points, Tensor pixels, Tensor offsets) -> Tensor")
PERCEPTION_OP(bev_pool_backward, bev_pool_backward_op,
              "(Tensor gradient, Tensor depth, Tensor features, Tensor cells) -> (Tensor depth, Tensor features)")

}  // namespace perception
