#include "ops/group_rows.h"
#include "ops/scatter_reduce.h"
#include "ops/voxelize.h"
#include "tests/check.h"

namespace perception::testing {
namespace {

struct Groups {
  Buffer<int64_t> order;
  Buffer<int64_t> offsets;
};

Groups grouped(const Executor& executor, const Buffer<int64_t>& index, int64_t num_groups) {
  Groups groups{Buffer<int64_t>(index.size()), Buffer<int64_t>(num_groups + 1)};
  Buffer<char> workspace(group_rows_workspace(index.size()));
  const int64_t bad_row = group_rows(executor, index.data(), index.size(), num_groups, groups.order.data(),
                                     groups.offsets.data(), workspace.data());
  CHECK(bad_row == -1);
  return groups;
}

TEST(group_rows_lists_every_row_once_and_rising) {
  Random random(1);
  for (const int64_t num_rows : row_counts()) {
    for (const int64_t num_groups : {int64_t{0}, int64_t{1}, int64_t{17}, int64_t{100'000}}) {
      const Buffer<int64_t> index = random.wholes(num_rows, -1, num_groups - 1);
      steady([&](const Executor& executor) {
        const Groups groups = grouped(executor, index, num_groups);
        std::vector<bool> seen(static_cast<size_t>(num_rows));
        for (int64_t group = 0; group <= num_groups; ++group) {
          const int64_t end = group < num_groups ? groups.offsets[group + 1] : num_rows;
          for (int64_t i = groups.offsets[group]; i < end; ++i) {
            const int64_t row = groups.order[i];
            CHECK(row >= 0 && row < num_rows && !seen[static_cast<size_t>(row)]);
            CHECK(index[row] == (group < num_groups ? group : -1));
            CHECK(i == groups.offsets[group] || groups.order[i - 1] < row);
            seen[static_cast<size_t>(row)] = true;
          }
        }
        return bytes_of(groups.order, groups.offsets);
      });
    }
  }
}

TEST(group_rows_names_the_first_bad_row) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max(), kLeast = std::numeric_limits<int64_t>::min();
  for (const int64_t bad : {int64_t{-2}, int64_t{4}, kMost, kLeast}) {
    const Buffer<int64_t> index{0, 3, -1, bad, 2, bad};
    Buffer<int64_t> order(6), offsets(5);
    CHECK(group_rows({run_whole}, index.data(), 6, 4, order.data(), offsets.data(), nullptr) == 3);
  }
}

template <typename T>
void reduce_rows(Reduce reduce, int64_t num_rows, int64_t channels, double spoiled) {
  Random random(2);
  const ScatterSizes sizes{num_rows, 20, channels};
  Buffer<T> features = random.reals<T>(num_rows * channels, -1, 1);
  const Buffer<T> gradient = random.reals<T>(sizes.num_segments * channels, -1, 1);
  random.spoil(features, spoiled);
  const Buffer<int64_t> index = random.wholes(num_rows, -1, sizes.num_segments - 3);
  steady([&](const Executor& executor) {
    Buffer<T> reduced(sizes.num_segments * channels), features_gradient(num_rows * channels);
    Buffer<int64_t> counts(sizes.num_segments);
    Buffer<int32_t> largest(reduce == Reduce::kMax ? reduced.size() : 0);
    Buffer<char> workspace(scatter_reduce_workspace(sizes));
    const int64_t bad_row = scatter_reduce(executor, reduce, sizes, features.data(), index.data(), reduced.data(),
                                           counts.data(), largest.data(), workspace.data());
    CHECK(bad_row == -1);
    scatter_reduce_backward(executor, reduce, sizes, gradient.data(), index.data(), counts.data(), largest.data(),
                            features_gradient.data());
    for (int64_t at = 0; spoiled == 0 && at < reduced.size(); ++at) {
      double sum = 0, most = -2;
      for (int64_t row = 0; row < num_rows; ++row) {
        if (index[row] != at / channels) continue;
        const double value = static_cast<double>(features[row * channels + at % channels]);
        sum += value;
        most = std::max(most, value);
      }
      const auto count = static_cast<double>(counts[at / channels]);
      const double expected = count == 0                ? 0
                              : reduce == Reduce::kMax  ? most
                              : reduce == Reduce::kMean ? sum / count
                                                        : sum;
      CHECK(std::fabs(static_cast<double>(reduced[at]) - expected) < 1e-4);
    }
    return bytes_of(reduced, counts, largest, features_gradient);
  });
}

TEST(scatter_reduce_is_what_a_loop_gives) {
  for (const Reduce reduce : {Reduce::kSum, Reduce::kMean, Reduce::kMax}) {
    for (const int64_t num_rows : row_counts()) {
      for (const int64_t channels : channel_counts()) {
        for (const double spoiled : {0.0, 0.1}) {
          reduce_rows<float>(reduce, num_rows, channels, spoiled);
          reduce_rows<double>(reduce, num_rows, channels, spoiled);
        }
      }
    }
  }
}

template <typename T>
void fill_voxels(const VoxelGrid<T>& grid, int64_t count, int64_t max_voxels, double spoiled) {
  Random random(3);
  const int64_t columns = 3 + count % 4;  // x y z, then up to three more
  Buffer<T> points = random.reals<T>(count * columns, -1, 11);
  random.spoil(points, spoiled);
  Buffer<int64_t> batch_index = random.wholes(count, 0, 2);
  std::sort(batch_index.begin(), batch_index.end());
  const VoxelizeInput<T> input{points.data(), batch_index.data(), count, columns, max_voxels, grid};
  steady([&](const Executor& executor) {
    Buffer<int64_t> point2voxel(count), keys(count);
    Buffer<char> workspace(assign_voxels_workspace(input));
    const int64_t num_voxels = assign_voxels(executor, input, point2voxel.data(), keys.data(), workspace.data());
    CHECK(num_voxels >= 0 && num_voxels <= count);
    Buffer<int64_t> coords(4 * num_voxels);
    locate_voxels(executor, grid, keys.data(), num_voxels, coords.data());
    for (int64_t i = 0; i < count; ++i) {
      CHECK(point2voxel[i] >= -1 && point2voxel[i] < num_voxels);
      const T* const point = points.data() + i * columns;
      const int64_t key = voxel_key(grid, point[0], point[1], point[2], batch_index[i]);
      CHECK(key >= 0 || point2voxel[i] == -1);
      CHECK(key < 0 || max_voxels >= 0 || point2voxel[i] >= 0);
      if (point2voxel[i] < 0) continue;
      int64_t expected[4];
      voxel_coords(grid.count, key, expected);
      CHECK(std::equal(expected, expected + 4, coords.data() + 4 * point2voxel[i]));
    }
    const GatherSizes sizes{count, num_voxels, 3, columns};
    Buffer<T> voxels(num_voxels * sizes.max_points * columns);
    Buffer<int64_t> num_points(num_voxels);
    Buffer<char> gather_workspace(gather_voxels_workspace(sizes));
    gather_voxels(executor, sizes, points.data(), point2voxel.data(), voxels.data(), num_points.data(),
                  gather_workspace.data());
    return bytes_of(point2voxel, coords, voxels, num_points);
  });
}

TEST(voxelize_gives_each_point_the_voxel_it_lies_in) {
  const VoxelGrid<float> grid{{0, 0, 0}, {2.5f, 2.5f, 5}, {4, 4, 2}};
  const VoxelGrid<double> fine{{0, 0, 0}, {1e-8, 1e-8, 1}, {1'000'000'000, 1'000'000'000, 1}};
  for (const int64_t count : row_counts()) {
    for (const int64_t max_voxels : {-1, 1, 5}) {
      for (const double spoiled : {0.0, 0.1}) {
        fill_voxels(grid, count, max_voxels, spoiled);
        fill_voxels(fine, count, max_voxels, spoiled);
      }
    }
  }
}

TEST(voxelize_of_one_voxel_and_many_points) {
  fill_voxels(VoxelGrid<float>{{-1, -1, -1}, {100, 100, 100}, {1, 1, 1}}, 20'000, -1, 0);
  fill_voxels(VoxelGrid<double>{{-1, -1, -1}, {0.01, 0.01, 0.01}, {1200, 1200, 1200}}, 20'000, 7, 0.01);
}

}  // namespace
}  // namespace perception::testing
