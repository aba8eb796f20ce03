// Index arithmetic beyond 2^31: the headers' functions against 128-bit arithmetic, and kernels over more numbers than
// fit the memory, of which they touch a few.
#include "ops/bev_pool.h"
#include "ops/box_iou_rotated.h"
#include "ops/echo_splat.h"
#include "ops/ms_deform_attn.h"
#include "ops/nms.h"
#include "ops/radar_splat.h"
#include "ops/raycast_voxels.h"
#include "ops/scatter_reduce.h"
#include "ops/sparse_conv.h"
#include "ops/sparse_pairs.h"
#include "ops/view_sample.h"
#include "ops/voxelize.h"
#include "tests/check.h"

namespace perception::testing {
namespace {

__extension__ typedef __int128 Wide;

constexpr int64_t kBillion = 1'000'000'000, kMost32 = int64_t{1} << 31;

TEST(voxel_keys_of_large_grids_come_back) {
  const VoxelGrid<double> grid{{0, 0, 0}, {1, 1, 1}, {kBillion, 70'000, 1000}};
  Random random(1);
  for (int i = 0; i < 1000; ++i) {
    const int64_t x = random.whole(0, kBillion - 1), y = random.whole(0, 69'999), z = random.whole(0, 999);
    const int64_t sample = random.whole(0, 60);
    const int64_t key = voxel_key(grid, static_cast<double>(x) + 0.5, static_cast<double>(y) + 0.5,
                                  static_cast<double>(z) + 0.5, sample);
    CHECK(key == ((Wide{sample} * 1000 + z) * 70'000 + y) * kBillion + x);
    const int64_t expected[] = {sample, z, y, x};
    int64_t coords[4];
    voxel_coords(grid.count, key, coords);
    CHECK(std::equal(coords, coords + 4, expected));
    const int64_t capacity = table_capacity(3 * kMost32), slot = first_slot(key, capacity);
    CHECK(slot >= 0 && slot < capacity);
  }
}

TEST(cell_keys_of_large_grids_come_back) {
  const int64_t shape[] = {1000, 70'000, 15'000};  // 2^40 cells
  SparseGeometry geometry{{3, 3, 3}, {2, 2, 2}, {1, 1, 1}, {1, 1, 1}, {}, {500, 35'000, 7'500}};
  std::copy_n(shape, 3, geometry.in_shape);
  Random random(2);
  for (int i = 0; i < 1000; ++i) {
    const int64_t coords[] = {random.whole(0, 4'000'000), random.whole(0, 999), random.whole(0, 69'999),
                              random.whole(0, 14'999)};
    const int64_t key = cell_key(shape, coords);
    CHECK(key == ((Wide{coords[0]} * 1000 + coords[1]) * 70'000 + coords[2]) * 15'000 + coords[3]);
    int64_t back[4];
    cell_coords(shape, key, back);
    CHECK(std::equal(coords, coords + 4, back));
    const int64_t slots = slots_for(3 * kMost32), slot = home_slot(key, slots);
    CHECK(slot >= 0 && slot < slots);
    for (int64_t offset = 0; offset < geometry.num_offsets(); ++offset) {
      if (!output_coords(geometry, coords, offset, back)) continue;
      for (int axis = 0; axis < 3; ++axis) CHECK(back[axis + 1] >= 0 && back[axis + 1] < geometry.out_shape[axis]);
    }
  }
}

TEST(frustum_points_of_many_views_are_where_depth_has_them) {
  const BevPoolSizes sizes{3000, 500, 64 * 176, 80, kMost32};
  Random random(3);
  for (int i = 0; i < 1000; ++i) {
    const int64_t view = random.whole(0, 2999), bin = random.whole(0, 499), place = random.whole(0, 64 * 176 - 1);
    const Wide expected = (Wide{view} * 500 + bin) * (64 * 176) + place;
    CHECK(frustum_point(sizes, view * sizes.num_pixels + place, bin) == expected);
  }
}

TEST(pixels_of_large_pictures_are_within) {
  constexpr int64_t kSide = 70'000;
  ViewSampleSizes sizes{};
  sizes.num_levels = 1;
  sizes.rows[0] = sizes.columns[0] = sizes.image_rows = sizes.image_columns = kSide;
  const float last_pixel[] = {kSide - 1, kSide - 1};
  const ViewCorners<double> corners = view_corners<double>(sizes, 0, last_pixel);
  CHECK(corners.cell[0] == kSide * kSide - 1 && corners.cell[3] == kSide * kSide - 1);
  const double middle_of_last[] = {1 - 0.5 / kSide, 1 - 0.5 / kSide};
  DeformCorners<double> deform{};
  CHECK(deform_corners(middle_of_last, kSide, kSide, &deform));
  CHECK(deform.inside[0] && deform.pixel[0] >= kSide * (kSide - 2) && deform.pixel[0] < kSide * kSide);
}

TEST(cells_of_large_bevs_are_within) {
  const int64_t side = 3 * kBillion;
  const EchoGrid echo_grid{{0, 0}, {1, 1}, side, side};
  Echo echo{};
  echo.place[0][0] = echo.place[1][0] = echo.place[0][1] = echo.place[1][1] = 2.9e9;
  echo.distance = 3;
  echo.sigma = 0.1;
  int64_t first = 0, last = 0;
  echo_cells(echo_grid, echo, 0, side, &first, &last);
  CHECK(first > 2'899'999'990 && first < 2'900'000'000 && last > 2'900'000'000 && last < 2'900'000'010);
  const BevGrid radar_grid{{0, 0}, {1, 1}, side, side};
  const double position[] = {2.9e9, 2.8e9}, covariance[] = {4, 1, 1, 4};
  Footprint footprint{};
  CHECK(radar_footprint(radar_grid, position, covariance, &footprint));
  CHECK(footprint.first[0] > 2'899'999'990 && footprint.last[1] < 2'800'000'010);
  CHECK(std::isfinite(footprint.normalizer()) && footprint.density(footprint.first[0] + 6, 2'800'000'000) > 0);
}

TEST(workspaces_of_large_inputs_are_counted) {
  CHECK(box_iou_rotated_workspace({kMost32, kMost32, 7, true}) >= 2 * kMost32 * UprightBox<float>::kFields);
  CHECK(nms_rotated_workspace(kMost32, sizeof(double)) >= kMost32 * static_cast<int64_t>(sizeof(double)));
  CHECK(nms_circle_workspace(kMost32) >= kMost32 * static_cast<int64_t>(sizeof(int64_t)));
  CHECK(table_capacity(kMost32) >= 2 * kMost32 && slots_for(kMost32) >= 2 * kMost32);
  const SparseGeometry geometry{{3, 3, 3}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {9, 9, 9}, {9, 9, 9}};
  CHECK(most_outputs(geometry, kMost32) == 27 * kMost32);
  const int64_t count[] = {511, 511, 1000};
  CHECK(raycast_workspace(count, true) >= 511 * 511 * 1000);
  CHECK(sparse_conv_workspace({kMost32, kMost32, 27, 27 * kMost32, 64, 64}) > 0);
}

// The kernels below read or write one row so far out that row * channels is beyond 2^31.
constexpr int64_t kChannels = 64, kFarRow = kMost32 / kChannels + 12'345, kRows = kFarRow + 1;

TEST(bev_pool_reads_far_features) {
  Expanse<float> features(kRows * kChannels);
  features[kFarRow * kChannels + 5] = 3;
  const Buffer<float> depth{0.5f};
  const Buffer<int64_t> points{0}, pixels{kFarRow}, offsets{0, 1};
  Buffer<float> bev(kChannels);
  bev_pool({run_whole}, {1, 1, kRows, kChannels, 1}, depth.data(), features.data(), points.data(), pixels.data(),
           offsets.data(), bev.data());
  CHECK(bev[5] == 1.5f && bev[4] == 0);
}

TEST(scatter_reduce_reads_far_rows) {
  Expanse<float> features(kRows * kChannels);
  features[kFarRow * kChannels + 5] = 3;
  Buffer<int64_t> index(kRows);
  std::fill(index.begin(), index.end(), -1);
  index[7] = index[kFarRow] = 0;
  for (const Reduce reduce : {Reduce::kSum, Reduce::kMax}) {
    Buffer<float> reduced(kChannels);
    Buffer<int64_t> counts(1), workspace(2);
    Buffer<int32_t> largest(kChannels);
    scatter_reduce({run_whole}, reduce, {kRows, 1, kChannels}, features.data(), index.data(), reduced.data(),
                   counts.data(), largest.data(), workspace.data());
    CHECK(counts[0] == 2 && reduced[5] == 3 && reduced[4] == 0);
    CHECK(reduce == Reduce::kSum || (largest[5] == kFarRow && largest[4] == 7));
  }
}

TEST(gather_voxels_writes_far_voxels) {
  constexpr int64_t kVoxels = kMost32 / kChannels / 16, kMaxPoints = 32;
  Expanse<int64_t> counts(kVoxels);
  Expanse<float> voxels(kVoxels * kMaxPoints * kChannels);
  Buffer<float> points(kChannels);
  std::fill(points.begin(), points.end(), 3.0f);
  const Buffer<int64_t> point2voxel{kVoxels - 1};
  const GatherSizes sizes{1, kVoxels, kMaxPoints, kChannels};
  Buffer<char> workspace(gather_voxels_workspace(sizes));
  const Executor last_task{[](int64_t count, int64_t, Executor::Body body, void* context) {
    body(count - 2, count, context);  // the others would touch every page
  }};
  gather_voxels(last_task, sizes, points.data(), point2voxel.data(), voxels.data(), counts.data(), workspace.data());
  CHECK(counts[kVoxels - 1] == 1 && counts[kVoxels - 2] == 0);
  CHECK(voxels[(kVoxels - 1) * kMaxPoints * kChannels] == 3 && voxels[(kVoxels - 2) * kMaxPoints * kChannels] == 0);
}

TEST(sparse_conv_reads_and_multiplies_far_rows) {
  Expanse<float> features(kRows * kChannels);
  features[kFarRow * kChannels + 5] = 3;
  Buffer<float> weights(kChannels * kChannels), result(kChannels), gradient(kChannels);
  for (int64_t i = 0; i < weights.size(); ++i) weights[i] = i / kChannels == 5 ? 2 : 0;
  std::fill(gradient.begin(), gradient.end(), 1.0f);
  const Buffer<int64_t> sources{kFarRow}, targets{0}, offsets{0, 1};
  const SparseConvSizes sizes{kRows, 1, 1, 1, kChannels, kChannels};
  const SparsePairs pairs{sources.data(), targets.data(), offsets.data()};
  sparse_conv({run_whole}, sizes, pairs, features.data(), weights.data(), result.data());
  CHECK(result[0] == 6);
  Buffer<float> weights_gradient(weights.size()), workspace(sparse_conv_workspace(sizes));
  sparse_conv_weights_backward({run_whole}, sizes, pairs, features.data(), gradient.data(), weights_gradient.data(),
                               workspace.data());
  CHECK(weights_gradient[5 * kChannels] == 3 && weights_gradient[4 * kChannels] == 0);
}

TEST(view_sample_reads_far_cells) {
  constexpr int64_t kSide = 8'192;  // 2^26 cells of 64 channels
  ViewSampleSizes sizes{};
  sizes.samples = sizes.num_views = sizes.num_points = sizes.num_levels = 1;
  sizes.channels = kChannels;
  sizes.rows[0] = sizes.columns[0] = sizes.image_rows = sizes.image_columns = kSide;
  Expanse<float> map(kSide * kSide * kChannels);
  map[(kSide * kSide - 1) * kChannels + 5] = 3;
  const Buffer<float> pixels{kSide - 1, kSide - 1};
  const Buffer<bool> valid{true};
  const Buffer<int64_t> counts{1};
  Buffer<float> output(kChannels);
  view_sample({run_whole}, sizes, ViewLevels<const float>{{map.data()}}, {pixels.data(), valid.data(), counts.data()},
              output.data());
  CHECK(output[5] == 3 && output[4] == 0);
}

TEST(ms_deform_attn_reads_far_values) {
  constexpr int64_t kSide = 8'192;
  DeformSizes sizes{};
  sizes.samples = sizes.heads = sizes.num_queries = sizes.num_levels = sizes.num_points = 1;
  sizes.channels = kChannels;
  sizes.num_values = kSide * kSide;
  sizes.rows[0] = sizes.columns[0] = kSide;
  Expanse<float> value(kSide * kSide * kChannels);
  value[(kSide * kSide - 1) * kChannels + 5] = 3;
  const Buffer<float> locations{1 - 0.5f / kSide, 1 - 0.5f / kSide}, weights{1};
  Buffer<float> output(kChannels);
  ms_deform_attn({run_whole}, sizes, value.data(), locations.data(), weights.data(), output.data());
  CHECK(output[5] == 3 && output[4] == 0);
}

TEST(points_and_boxes_lie_beyond_2_to_the_31) {
  constexpr int64_t kBoxes = kMost32 / UprightBox<float>::kFields + 100;
  Expanse<float> fields(kBoxes * UprightBox<float>::kFields);
  const UprightBoxes<float> boxes{fields.data(), kBoxes};
  const float box[] = {1, 2, 3, 4, 5, 6, 0};
  boxes.set(kBoxes - 1, upright_box(box, true));
  CHECK(fields[kBoxes * UprightBox<float>::kFields - 1] == boxes[kBoxes - 1].radius && boxes[kBoxes - 1].radius > 3);
  CHECK(overlap(boxes[kBoxes - 1], boxes[kBoxes - 1]) > 0.999f);
}

}  // namespace
}  // namespace perception::testing
