#include "ops/ms_deform_attn.h"

#include <tuple>
#include <vector>

#include "ops/common.h"

namespace perception {
namespace {

// `shapes` holds rows and columns of each level in turn.
DeformSizes deform_sizes(const Tensor& value, const Tensor& weights, const std::vector<int64_t>& shapes) {
  STD_TORCH_CHECK(value.dim() == 4 && weights.dim() == 5,
                  "ms_deform_attn: value and weights must have 4 and 5 axes, got ", describe(value), " and ",
                  describe(weights));
  DeformSizes sizes{};
  sizes.samples = value.size(0);
  sizes.num_values = value.size(1);
  sizes.heads = value.size(2);
  sizes.channels = value.size(3);
  sizes.num_queries = weights.size(1);
  sizes.num_levels = weights.size(3);
  sizes.num_points = weights.size(4);
  STD_TORCH_CHECK(sizes.num_levels <= kMaxDeformLevels, "ms_deform_attn: weights must have at most ", kMaxDeformLevels,
                  " levels, got ", sizes.num_levels);
  STD_TORCH_CHECK(static_cast<int64_t>(shapes.size()) == 2 * sizes.num_levels,
                  "ms_deform_attn: spatial_shapes must have two sizes for each of ", sizes.num_levels, " levels, got ",
                  shapes.size());
  int64_t total = 0;
  for (int64_t level = 0; level < sizes.num_levels; ++level) {
    sizes.rows[level] = shapes[2 * level];
    sizes.columns[level] = shapes[2 * level + 1];
    sizes.starts[level] = total;
    STD_TORCH_CHECK(sizes.rows[level] > 0 && sizes.columns[level] > 0,
                    "ms_deform_attn: spatial_shapes must be positive");
    total += sizes.rows[level] * sizes.columns[level];
  }
  STD_TORCH_CHECK(total == sizes.num_values, "ms_deform_attn: value must have ", total,
                  " rows, as spatial_shapes say, got ", sizes.num_values);
  return sizes;
}

struct Inputs {
  Tensor value;
  Tensor locations;
  Tensor weights;
};

Inputs checked_inputs(const DeformSizes& sizes, const Tensor& value, const Tensor& locations, const Tensor& weights) {
  return {floating_input("ms_deform_attn: value", value, {-1, -1, -1, -1}, value),
          floating_input("ms_deform_attn: locations", locations,
                         {sizes.samples, sizes.num_queries, sizes.heads, sizes.num_levels, sizes.num_points, 2}, value),
          floating_input("ms_deform_attn: weights", weights,
                         {sizes.samples, sizes.num_queries, sizes.heads, sizes.num_levels, sizes.num_points}, value)};
}

}  // namespace

Tensor ms_deform_attn_op(const Tensor& value_in, const Tensor& locations_in, const Tensor& weights_in,
                         const std::vector<int64_t>& spatial_shapes) {
  const DeformSizes sizes = deform_sizes(value_in, weights_in, spatial_shapes);
  const Inputs inputs = checked_inputs(sizes, value_in, locations_in, weights_in);
  Tensor output =
      torch::stable::new_empty(inputs.value, {sizes.samples, sizes.num_queries, sizes.heads, sizes.channels});
  const Launch launch(value_in);
  dispatch_floating(inputs.value, [&](auto zero) {
    using T = decltype(zero);
    ms_deform_attn(launch.executor(), sizes, inputs.value.const_data_ptr<T>(), inputs.locations.const_data_ptr<T>(),
                   inputs.weights.const_data_ptr<T>(), output.mutable_data_ptr<T>());
  });
  return output_like(output, value_in);
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward_op(const Tensor& gradient_in, const Tensor& value_in,
                                                              const Tensor& locations_in, const Tensor& weights_in,
                                                              const std::vector<int64_t>& spatial_shapes) {
  const DeformSizes sizes = deform_sizes(value_in, weights_in, spatial_shapes);
  const Inputs inputs = checked_inputs(sizes, value_in, locations_in, weights_in);
  const Tensor gradient = floating_input("ms_deform_attn_backward: gradient", gradient_in,
                                         {sizes.samples, sizes.num_queries, sizes.heads, sizes.channels}, value_in);
  Tensor value_gradient = torch::stable::empty_like(inputs.value);
  Tensor locations_gradient = torch::stable::empty_like(inputs.locations);
  Tensor weights_gradient = torch::stable::empty_like(inputs.weights);
  const Launch launch(value_in);
  dispatch_floating(inputs.value, [&](auto zero) {
    using T = decltype(zero);
    const DeformAttentionGradients<T> gradients{value_gradient.mutable_data_ptr<T>(),
                                                locations_gradient.mutable_data_ptr<T>(),
                                                weights_gradient.mutable_data_ptr<T>()};
    ms_deform_attn_backward(launch.executor(), sizes, gradient.const_data_ptr<T>(), inputs.value.const_data_ptr<T>(),
                            inputs.locations.const_data_ptr<T>(), inputs.weights.const_data_ptr<T>(), gradients);
  });
  return {output_like(value_gradient, value_in), output_like(locations_gradient, value_in),
          output_like(weights_gradient, value_in)};
}

PERCEPTION_OP(ms_deform_attn, ms_deform_attn_op,
              "(Tensor value, Tensor locations, Tensor weights, int[] spatial_shapes) -> Tensor")
PERCEPTION_OP(ms_deform_attn_backward, ms_deform_attn_backward_op,
              "(Tensor gradient, Tensor value, Tensor locations, Tensor weights, int[] spatial_shapes)"
              " -> (Tensor value, Tensor locations, Tensor weights)")

}  // namespace perception
