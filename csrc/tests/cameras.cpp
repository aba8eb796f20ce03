#include "ops/bev_pool.h"
#include "ops/group_rows.h"
#include "ops/ms_deform_attn.h"
#include "ops/view_sample.h"
#include "tests/check.h"

namespace perception::testing {
namespace {

// bev_pool's plan of random cells, as perception/ops/bev_pool.py makes it.
struct PoolPlan {
  Buffer<int64_t> cells, points, pixels, offsets;

  PoolPlan(Random& random, const BevPoolSizes& sizes)
      : cells(random.wholes(sizes.num_views * sizes.num_bins * sizes.num_pixels, -1, sizes.num_cells - 1)),
        points(cells.size()),
        pixels(cells.size()),
        offsets(sizes.num_cells + 1) {
    Buffer<char> workspace(group_rows_workspace(cells.size()));
    CHECK(group_rows({run_whole}, cells.data(), cells.size(), sizes.num_cells, points.data(), offsets.data(),
                     workspace.data()) == -1);
    const int64_t per_view = sizes.num_bins * sizes.num_pixels;
    for (int64_t i = 0; i < points.size(); ++i) {
      pixels[i] = points[i] / per_view * sizes.num_pixels + points[i] % sizes.num_pixels;
    }
  }
};

template <typename T>
void pool(const BevPoolSizes& sizes, double spoiled) {
  Random random(1);
  const PoolPlan plan(random, sizes);
  Buffer<T> depth = random.reals<T>(plan.cells.size(), 0, 1);
  Buffer<T> features = random.reals<T>(sizes.num_views * sizes.num_pixels * sizes.channels, -1, 1);
  const Buffer<T> gradient = random.reals<T>(sizes.num_cells * sizes.channels, -1, 1);
  random.spoil(depth, spoiled);
  random.spoil(features, spoiled);
  steady([&](const Executor& executor) {
    Buffer<T> bev(gradient.size()), depth_gradient(depth.size()), features_gradient(features.size());
    bev_pool(executor, sizes, depth.data(), features.data(), plan.points.data(), plan.pixels.data(),
             plan.offsets.data(), bev.data());
    bev_pool_backward(executor, sizes, gradient.data(), depth.data(), features.data(), plan.cells.data(),
                      depth_gradient.data(), features_gradient.data());
    // The op is linear in each input: bev . gradient = depth . its gradient = features . theirs.
    double by_bev = 0, by_depth = 0, by_features = 0;
    for (int64_t i = 0; i < bev.size(); ++i) by_bev += static_cast<double>(bev[i]) * static_cast<double>(gradient[i]);
    for (int64_t i = 0; i < depth.size(); ++i) {
      by_depth += static_cast<double>(depth[i]) * static_cast<double>(depth_gradient[i]);
    }
    for (int64_t i = 0; i < features.size(); ++i) {
      by_features += static_cast<double>(features[i]) * static_cast<double>(features_gradient[i]);
    }
    CHECK(spoiled > 0 || (std::fabs(by_bev - by_depth) < 1e-2 && std::fabs(by_bev - by_features) < 1e-2));
    return bytes_of(bev, depth_gradient, features_gradient);
  });
}

TEST(bev_pool_and_its_gradients_agree) {
  for (const int64_t channels : channel_counts()) {
    for (const double spoiled : {0.0, 0.05}) {
      for (const BevPoolSizes& sizes : {BevPoolSizes{2, 5, 12, channels, 40}, BevPoolSizes{3, 1, 7, channels, 1000},
                                        BevPoolSizes{1, 30, 20, channels, 1}, BevPoolSizes{0, 4, 4, channels, 9},
                                        BevPoolSizes{2, 0, 4, channels, 9}, BevPoolSizes{2, 3, 0, channels, 0}}) {
        pool<float>(sizes, spoiled);
        pool<double>(sizes, spoiled);
      }
    }
  }
}

ViewSampleSizes view_sizes(int64_t samples, int64_t views, int64_t points, int64_t channels, int64_t levels) {
  ViewSampleSizes sizes{};
  sizes.samples = samples;
  sizes.num_views = views;
  sizes.num_points = points;
  sizes.channels = channels;
  sizes.num_levels = levels;
  sizes.image_rows = 64;
  sizes.image_columns = 100;
  for (int64_t level = 0; level < levels; ++level) {
    sizes.rows[level] = std::max<int64_t>(1, 8 >> level);
    sizes.columns[level] = std::max<int64_t>(1, 13 >> level);
  }
  return sizes;
}

// Pixels that are valid and yet NaN, infinite or far away must do no harm.
template <typename T>
void sample(const ViewSampleSizes& sizes, double spoiled) {
  Random random(2);
  const int64_t hits = sizes.samples * sizes.num_views * sizes.num_points;
  Buffer<float> pixels = random.reals<float>(2 * hits, -3, 110);
  random.spoil(pixels, spoiled);
  Buffer<bool> valid(hits);
  for (bool& seen : valid) seen = random.chance(0.6);
  Buffer<int64_t> counts(sizes.samples * sizes.num_points);
  for (int64_t i = 0; i < counts.size(); ++i) {
    counts[i] = 0;
    for (int64_t view = 0; view < sizes.num_views; ++view) {
      counts[i] += valid[(i / sizes.num_points * sizes.num_views + view) * sizes.num_points + i % sizes.num_points];
    }
  }
  std::vector<Buffer<T>> maps;
  ViewLevels<const T> levels{};
  for (int64_t level = 0; level < sizes.num_levels; ++level) {
    const int64_t cells = sizes.rows[level] * sizes.columns[level];
    maps.push_back(random.reals<T>(sizes.samples * sizes.num_views * cells * sizes.channels, 1, 2));
    levels.data[level] = maps.back().data();
  }
  const Buffer<T> gradient = random.reals<T>(counts.size() * sizes.channels, -1, 1);
  const ViewHits where{pixels.data(), valid.data(), counts.data()};
  steady([&](const Executor& executor) {
    Buffer<T> output(gradient.size());
    view_sample(executor, sizes, levels, where, output.data());
    for (int64_t i = 0; i < output.size(); ++i) {
      const auto value = static_cast<double>(output[i]);
      CHECK(counts[i / sizes.channels] == 0 ? value == 0 : value > 1 - 1e-5 && value < 2 + 1e-5);
    }
    std::vector<Buffer<T>> gradients;
    ViewLevels<T> levels_gradient{};
    for (int64_t level = 0; level < sizes.num_levels; ++level) {
      gradients.emplace_back(maps[static_cast<size_t>(level)].size());
      levels_gradient.data[level] = gradients.back().data();
    }
    view_sample_backward(executor, sizes, gradient.data(), where, levels_gradient);
    std::string results = bytes_of(output);
    for (const Buffer<T>& map_gradient : gradients) append(&results, map_gradient);
    return results;
  });
}

TEST(view_sample_stays_between_the_features) {
  for (const int64_t channels : channel_counts()) {
    for (const double spoiled : {0.0, 0.2}) {
      for (const ViewSampleSizes& sizes :
           {view_sizes(2, 3, 70, channels, 3), view_sizes(1, 1, 1, channels, 16), view_sizes(1, 6, 200, channels, 1),
            view_sizes(0, 2, 5, channels, 2), view_sizes(2, 0, 5, channels, 2), view_sizes(2, 2, 0, channels, 2)}) {
        sample<float>(sizes, spoiled);
        sample<double>(sizes, spoiled);
      }
    }
  }
}

DeformSizes deform_sizes(int64_t queries, int64_t channels, int64_t points) {
  DeformSizes sizes{};
  sizes.samples = 2;
  sizes.heads = 3;
  sizes.channels = channels;
  sizes.num_queries = queries;
  sizes.num_levels = 3;
  sizes.num_points = points;
  for (int64_t level = 0; level < sizes.num_levels; ++level) {
    sizes.rows[level] = 5 >> level;
    sizes.columns[level] = 7 >> level;
    sizes.starts[level] = sizes.num_values;
    sizes.num_values += sizes.rows[level] * sizes.columns[level];
  }
  return sizes;
}

template <typename T>
void attend(const DeformSizes& sizes, double spoiled) {
  Random random(3);
  const int64_t num_rows = sizes.samples * sizes.num_queries * sizes.heads;
  const int64_t places = num_rows * sizes.num_levels * sizes.num_points;
  const Buffer<T> value = random.reals<T>(sizes.samples * sizes.num_values * sizes.heads * sizes.channels, 1, 2);
  Buffer<T> locations = random.reals<T>(2 * places, -0.2, 1.2);
  random.spoil(locations, spoiled);
  const Buffer<T> weights = random.reals<T>(places, 0, 1), gradient = random.reals<T>(num_rows * sizes.channels, -1, 1);
  steady([&](const Executor& executor) {
    Buffer<T> output(gradient.size()), to_value(value.size()), to_locations(locations.size()), to_weights(places);
    ms_deform_attn(executor, sizes, value.data(), locations.data(), weights.data(), output.data());
    ms_deform_attn_backward(executor, sizes, gradient.data(), value.data(), locations.data(), weights.data(),
                            {to_value.data(), to_locations.data(), to_weights.data()});
    double by_output = 0, by_value = 0, by_weights = 0;
    for (int64_t i = 0; i < output.size(); ++i) {
      by_output += static_cast<double>(output[i]) * static_cast<double>(gradient[i]);
    }
    for (int64_t i = 0; i < value.size(); ++i) {
      by_value += static_cast<double>(value[i]) * static_cast<double>(to_value[i]);
    }
    for (int64_t i = 0; i < places; ++i) {
      by_weights += static_cast<double>(weights[i]) * static_cast<double>(to_weights[i]);
      CHECK(std::isfinite(to_locations[2 * i]) && std::isfinite(to_locations[2 * i + 1]));
    }
    CHECK(std::fabs(by_output - by_value) < 1e-2 && std::fabs(by_output - by_weights) < 1e-2);
    return bytes_of(output, to_value, to_locations, to_weights);
  });
}

TEST(ms_deform_attn_and_its_gradients_agree) {
  for (const int64_t channels : channel_counts()) {
    for (const int64_t queries : {0, 1, 5, 90}) {
      for (const int64_t points : {0, 1, 4}) {
        for (const double spoiled : {0.0, 0.2}) {
          attend<float>(deform_sizes(queries, channels, points), spoiled);
          attend<double>(deform_sizes(queries, channels, points), spoiled);
        }
      }
    }
  }
}

}  // namespace
}  // namespace perception::testing
