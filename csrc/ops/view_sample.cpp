#include "ops/view_sample.h"

#include <vector>

#include "ops/common.h"

namespace perception {
namespace {

struct PlanInputs {
  Tensor pixels;
  Tensor valid;
  Tensor counts;

  ViewHits hits() const {
    return {pixels.const_data_ptr<float>(), valid.const_data_ptr<bool>(), counts.const_data_ptr<int64_t>()};
  }
};

PlanInputs checked_plan(const Tensor& pixels, const Tensor& valid, const Tensor& counts, const Tensor& like) {
  check_shape("view_sample: valid", valid, {-1, -1, -1}, like);
  const int64_t samples = valid.size(0), views = valid.size(1), points = valid.size(2);
  check_shape("view_sample: pixels", pixels, {samples, views, points, 2}, like);
  STD_TORCH_CHECK(pixels.scalar_type() == ScalarType::Float && valid.scalar_type() == ScalarType::Bool,
                  "view_sample: pixels and valid must be float32 and bool, got ", describe(pixels), " and ",
                  describe(valid));
  return {torch::stable::contiguous(pixels), torch::stable::contiguous(valid),
          index_input("view_sample: counts", counts, {samples, points}, like)};
}

// `shapes` holds rows and columns of each level in turn; `image_size` rows and columns of the picture.
ViewSampleSizes view_sample_sizes(const Tensor& valid, int64_t channels, const std::vector<int64_t>& shapes,
                                  const std::vector<int64_t>& image_size) {
  const int64_t num_levels = static_cast<int64_t>(shapes.size()) / 2;
  STD_TORCH_CHECK(num_levels > 0 && num_levels <= kMaxViewLevels && shapes.size() % 2 == 0,
                  "view_sample: levels must be 1 to ", kMaxViewLevels, ", got ", num_levels);
  STD_TORCH_CHECK(image_size.size() == 2 && image_size[0] > 0 && image_size[1] > 0,
                  "view_sample: image_size must be two positive sizes");
  ViewSampleSizes sizes{};
  sizes.samples = valid.size(0);
  sizes.num_views = valid.size(1);
  sizes.num_points = valid.size(2);
  sizes.channels = channels;
  sizes.num_levels = num_levels;
  sizes.image_rows = image_size[0];
  sizes.image_columns = image_size[1];
  for (int64_t level = 0; level < num_levels; ++level) {
    sizes.rows[level] = shapes[2 * level];
    sizes.columns[level] = shapes[2 * level + 1];
    STD_TORCH_CHECK(sizes.rows[level] > 0 && sizes.columns[level] > 0, "view_sample: levels must not be empty");
  }
  return sizes;
}

}  // namespace

Tensor view_sample_op(const std::vector<Tensor>& levels_in, const Tensor& pixels, const Tensor& valid,
                      const Tensor& counts, const std::vector<int64_t>& image_size) {
  STD_TORCH_CHECK(!levels_in.empty() && levels_in[0].dim() == 5,
                  "view_sample: levels must be at least one tensor (B, N, H, W, C)");
  const PlanInputs plan = checked_plan(pixels, valid, counts, levels_in[0]);
  std::vector<Tensor> levels;
  std::vector<int64_t> shapes;
  for (const Tensor& level : levels_in) {
    levels.push_back(floating_input("view_sample: each level", level,
                                    {valid.size(0), valid.size(1), -1, -1, levels_in[0].size(4)}, levels_in[0]));
    shapes.push_back(level.size(2));
    shapes.push_back(level.size(3));
  }
  const ViewSampleSizes sizes = view_sample_sizes(valid, levels[0].size(4), shapes, image_size);
  Tensor output = torch::stable::new_empty(levels[0], {sizes.samples, sizes.num_points, sizes.channels});
  const Launch launch(output);
  dispatch_floating(output, [&](auto zero) {
    using T = decltype(zero);
    ViewLevels<const T> data{};
    for (size_t level = 0; level < levels.size(); ++level) data.data[level] = levels[level].const_data_ptr<T>();
    view_sample(launch.executor(), sizes, data, plan.hits(), output.mutable_data_ptr<T>());
  });
  return output_like(output, levels_in[0]);
}

// `shapes` as in view_sample_sizes.
std::vector<Tensor> view_sample_backward_op(const Tensor& gradient_in, const Tensor& pixels, const Tensor& valid,
                                            const Tensor& counts, const std::vector<int64_t>& shapes,
                                            const std::vector<int64_t>& image_size) {
  const PlanInputs plan = checked_plan(pixels, valid, counts, gradient_in);
  const Tensor gradient =
      floating_input("view_sample_backward: gradient", gradient_in, {valid.size(0), valid.size(2), -1}, gradient_in);
  const ViewSampleSizes sizes = view_sample_sizes(valid, gradient.size(2), shapes, image_size);
  std::vector<Tensor> levels;
  for (int64_t level = 0; level < sizes.num_levels; ++level) {
    levels.push_back(torch::stable::new_empty(
        gradient, {sizes.samples, sizes.num_views, sizes.rows[level], sizes.columns[level], sizes.channels}));
  }
  const Launch launch(gradient);
  dispatch_floating(gradient, [&](auto zero) {
    using T = decltype(zero);
    ViewLevels<T> data{};
    for (size_t level = 0; level < levels.size(); ++level) data.data[level] = levels[level].mutable_data_ptr<T>();
    view_sample_backward(launch.executor(), sizes, gradient.const_data_ptr<T>(), plan.hits(), data);
  });
  for (Tensor& level : levels) level = output_like(level, gradient_in);
  return levels;
}

PERCEPTION_OP(view_sample, view_sample_op,
              "(Tensor[] levels, Tensor pixels, Tensor valid, Tensor counts, int[] image_size) -> Tensor")
PERCEPTION_OP(view_sample_backward, view_sample_backward_op,
              "(Tensor gradient, Tensor pixels, Tensor valid, Tensor counts, int[] shapes, int[] image_size)"
              " -> Tensor[]")

}  // namespace perception
