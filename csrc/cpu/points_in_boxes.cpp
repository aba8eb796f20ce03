#include "ops/points_in_boxes.h"

#include <algorithm>
#include <limits>

#include "include/vectorize.h"

namespace perception {
namespace {

constexpr int64_t kBlock = 128;  // points that are tested together; those of one block often lie close together
constexpr int64_t kBlocksPerTask = 8;

struct Block {
  double x[kBlock], y[kBlock], z[kBlock];
  double low_x, high_x, low_y, high_y;

  // False only for boxes that hold none of the block's points.
  bool may_touch(const SolidBox& box) const {
    return !(box.x - box.radius > high_x || box.x + box.radius < low_x || box.y - box.radius > high_y ||
             box.y + box.radius < low_y);
  }
};

// The comparisons leave NaN out of the bounds.
PERCEPTION_MULTIVERSION void find_bounds(const double* values, int64_t count, double* low, double* high) {
  double lowest = std::numeric_limits<double>::infinity(), highest = -lowest;
  for (int64_t i = 0; i < count; ++i) {
    lowest = values[i] < lowest ? values[i] : lowest;
    highest = values[i] > highest ? values[i] : highest;
  }
  *low = lowest;
  *high = highest;
}

template <typename T>
void load_block(const T* points, int64_t columns, int64_t count, Block* block) {
  for (int64_t i = 0; i < count; ++i) {
    block->x[i] = static_cast<double>(points[i * columns]);
    block->y[i] = static_cast<double>(points[i * columns + 1]);
    block->z[i] = static_cast<double>(points[i * columns + 2]);
  }
  find_bounds(block->x, count, &block->low_x, &block->high_x);
  find_bounds(block->y, count, &block->low_y, &block->high_y);
}

PERCEPTION_MULTIVERSION void keep_first(const Block& block, const SolidBox& box, int64_t number, int64_t count,
                                        int64_t* first) {
  for (int64_t i = 0; i < count; ++i) {
    first[i] = holds(box, block.x[i], block.y[i], block.z[i]) && first[i] < 0 ? number : first[i];
  }
}

PERCEPTION_MULTIVERSION int64_t count_held(const Block& block, const SolidBox& box, int64_t count) {
  int64_t held = 0;
  for (int64_t i = 0; i < count; ++i) held += holds(box, block.x[i], block.y[i], block.z[i]) ? 1 : 0;
  return held;
}

// Calls visit(block, box number, first point, number of points) where the box may hold points of the block, boxes
// rising.
template <typename T, typename Visit>
void visit_blocks(const Executor& executor, const PointsAndBoxes<T>& input, SolidBox* prepared, const Visit& visit) {
  for (int64_t m = 0; m < input.num_boxes; ++m) prepared[m] = solid_box(input.boxes + m * input.box_columns);
  const int64_t num_blocks = (input.num_points + kBlock - 1) / kBlock;
  executor.parallel_for(num_blocks, kBlocksPerTask, [&](int64_t begin, int64_t end) {
    Block block;
    for (int64_t number = begin; number < end; ++number) {
      const int64_t from = number * kBlock, count = std::min(kBlock, input.num_points - from);
      load_block(input.points + from * input.point_columns, input.point_columns, count, &block);
      for (int64_t m = 0; m < input.num_boxes; ++m) {
        if (block.may_touch(prepared[m])) visit(block, m, from, count);
      }
    }
  });
}

}  // namespace

template <typename T>
void points_in_boxes(const Executor& executor, const PointsAndBoxes<T>& input, int64_t* first, SolidBox* prepared) {
  std::fill(first, first + input.num_points, int64_t{-1});
  visit_blocks(executor, input, prepared, [&](const Block& block, int64_t box, int64_t from, int64_t count) {
    keep_first(block, prepared[box], box, count, first + from);
  });
}

template <typename T>
void count_points_in_boxes(const Executor& executor, const PointsAndBoxes<T>& input, int64_t* counts,
                           SolidBox* prepared) {
  std::fill(counts, counts + input.num_boxes, int64_t{0});
  visit_blocks(executor, input, prepared, [&](const Block& block, int64_t box, int64_t, int64_t count) {
    const int64_t held = count_held(block, prepared[box], count);
    if (held > 0) __atomic_fetch_add(counts + box, held, __ATOMIC_RELAXED);  // whole numbers add up in any order
  });
}

#define INSTANTIATE(T)                                                                              \
  template void points_in_boxes<T>(const Executor&, const PointsAndBoxes<T>&, int64_t*, SolidBox*); \
  template void count_points_in_boxes<T>(const Executor&, const PointsAndBoxes<T>&, int64_t*, SolidBox*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
