#include "ops/sparse_conv.h"

#include "ops/common.h"

namespace perception {
namespace {

struct PairTensors {
  Tensor sources;
  Tensor targets;
  Tensor offsets;

  SparsePairs pairs() const {
    return {sources.const_data_ptr<int64_t>(), targets.const_data_ptr<int64_t>(), offsets.const_data_ptr<int64_t>()};
  }
};

PairTensors checked_pairs(const Tensor& sources, const Tensor& targets, const Tensor& offsets, const Tensor& like) {
  const Tensor contiguous = index_input("sparse_conv: sources", sources, {-1}, like);
  STD_TORCH_CHECK(offsets.numel() > 0, "sparse_conv: offsets must not be empty");
  return {contiguous, index_input("sparse_conv: targets", targets, {contiguous.size(0)}, like),
          index_input("sparse_conv: offsets", offsets, {-1}, like)};
}

}  // namespace

Tensor sparse_conv_op(const Tensor& features_in, const Tensor& weights_in, const Tensor& sources, const Tensor& targets,
                      const Tensor&, const Tensor&, const Tensor& offsets, int64_t num_targets, bool) {
  const PairTensors pairs = checked_pairs(sources, targets, offsets, features_in);
  const Tensor features = floating_input("sparse_conv: features", features_in, {-1, -1}, features_in);
  const int64_t num_offsets = pairs.offsets.size(0) - 1, in_channels = features.size(1);
  const Tensor weights =
      floating_input("sparse_conv: weights", weights_in, {num_offsets, in_channels, -1}, features_in);
  STD_TORCH_CHECK(num_targets >= 0, "sparse_conv: num_targets must not be negative, got ", num_targets);
  const SparseConvSizes sizes{features.size(0),      num_targets, num_offsets,
                              pairs.sources.size(0), in_channels, weights.size(2)};
  Tensor result = torch::stable::new_empty(features, {num_targets, sizes.out_channels});
  const Launch launch(features);
  dispatch_floating(features, [&](auto zero) {
    using T = decltype(zero);
    sparse_conv(launch.executor(), sizes, pairs.pairs(), features.const_data_ptr<T>(), weights.const_data_ptr<T>(),
                result.mutable_data_ptr<T>());
  });
  return output_like(result, features_in);
}

Tensor sparse_conv_weights_backward_op(const Tensor& gradient_in, const Tensor& features_in, const Tensor& sources,
                                       const Tensor& targets, const Tensor& offsets) {
  const PairTensors pairs = checked_pairs(sources, targets, offsets, gradient_in);
  const Tensor gradient = floating_input("sparse_conv: gradient", gradient_in, {-1, -1}, gradient_in);
  const Tensor features = floating_input("sparse_conv: features", features_in, {-1, -1}, gradient_in);
  const SparseConvSizes sizes{features.size(0),      gradient.size(0), pairs.offsets.size(0) - 1,
                              pairs.sources.size(0), features.size(1), gradient.size(1)};
  Tensor result = torch::stable::new_empty(features, {sizes.num_offsets, sizes.in_channels, sizes.out_channels});
  Tensor workspace = torch::stable::new_empty(features, {sparse_conv_workspace(sizes)});
  const Launch launch(gradient);
  dispatch_floating(gradient, [&](auto zero) {
    using T = decltype(zero);
    sparse_conv_weights_backward(launch.executor(), sizes, pairs.pairs(), features.const_data_ptr<T>(),
                                 gradient.const_data_ptr<T>(), result.mutable_data_ptr<T>(),
                                 workspace.mutable_data_ptr<T>());
  });
  return output_like(result, features_in);
}

PERCEPTION_OP(sparse_conv, sparse_conv_op,
              "(Tensor features, Tensor weights, Tensor sources, Tensor targets, Tensor back_sources,"
              " Tensor back_targets, Tensor offsets, int num_targets, bool mirrored) -> Tensor")
PERCEPTION_OP(sparse_conv_weights_backward, sparse_conv_weights_backward_op,
              "(Tensor gradient, Tensor features, Tensor sources, Tensor targets, Tensor offsets) -> Tensor")

}  // namespace perception
