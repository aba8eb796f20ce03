#include "ops/raycast_voxels.h"
#include "tests/check.h"

namespace perception::testing {
namespace {

template <typename T>
void cast_rays(const int64_t* count, int64_t num_rays, double filled, double spoiled, T max_range) {
  Random random(1);
  RaycastInput<T> input{};
  input.num_rays = num_rays;
  for (int axis = 0; axis < 3; ++axis) {
    input.grid.lower[axis] = T(-5);
    input.grid.cell[axis] = T(10) / static_cast<T>(count[axis]);
    input.grid.count[axis] = count[axis];
    input.grid.stride[axis] = axis == 0 ? 1 : input.grid.stride[axis - 1] * static_cast<int32_t>(count[axis - 1]);
  }
  input.grid.max_range = max_range;
  Buffer<bool> occupied(input.num_cells());
  for (bool& cell : occupied) cell = random.chance(filled);
  Buffer<T> origins = random.reals<T>(3 * num_rays, -8, 8), directions = random.reals<T>(3 * num_rays, -1, 1);
  random.spoil(origins, spoiled);
  random.spoil(directions, spoiled);
  for (T& step : directions) step = random.chance(0.1) ? T(0) : step;
  input.occupied = occupied.data();
  input.origins = origins.data();
  input.directions = directions.data();
  for (const bool mark : {false, true}) {
    steady([&](const Executor& executor) {
      Buffer<int64_t> cells(num_rays);
      Buffer<T> distances(num_rays);
      Buffer<bool> reached(mark ? input.num_cells() : 0);
      Buffer<char> workspace(raycast_workspace(count, mark));
      raycast_voxels(executor, input, cells.data(), distances.data(), reached.data(), workspace.data());
      for (int64_t ray = 0; ray < num_rays; ++ray) {
        CHECK(cells[ray] >= -1 && cells[ray] < input.num_cells());
        CHECK((cells[ray] < 0) == std::isinf(distances[ray]));
        if (cells[ray] < 0) continue;
        CHECK(occupied[cells[ray]] && distances[ray] >= 0 && distances[ray] <= max_range);
        CHECK(!mark || reached[cells[ray]]);
      }
      return bytes_of(cells, distances, reached);
    });
  }
}

TEST(raycast_voxels_ends_at_occupied_cells_within_range) {
  constexpr int64_t kCube[] = {20, 20, 20}, kRow[] = {200, 1, 1}, kPole[] = {1, 1, 70}, kOne[] = {1, 1, 1};
  constexpr int64_t kOdd[] = {33, 5, 64};
  for (const int64_t* const count : {kCube, kRow, kPole, kOne, kOdd}) {
    for (const int64_t num_rays : {0, 1, 33, 700}) {
      for (const double filled : {0.0, 0.05, 1.0}) {
        cast_rays<float>(count, num_rays, filled, 0, std::numeric_limits<float>::infinity());
        cast_rays<double>(count, num_rays, filled, 0, 4);
      }
    }
  }
}

TEST(raycast_voxels_survives_strange_rays) {
  constexpr int64_t kCount[] = {40, 30, 8};
  for (const double filled : {0.0, 0.05}) {
    cast_rays<float>(kCount, 700, filled, 0.1, std::numeric_limits<float>::infinity());
    cast_rays<double>(kCount, 700, filled, 0.1, std::numeric_limits<double>::infinity());
    cast_rays<float>(kCount, 100, filled, 0.1, 0);
  }
}

}  // namespace
}  // namespace perception::testing
