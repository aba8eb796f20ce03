#include "ops/points_in_boxes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace perception {
namespace {

constexpr int64_t kPointsPerTask = 8192;
constexpr int64_t kCellsPerBox = 64;    // at most, of the grid
constexpr int64_t kEntriesPerBox = 32;  // at most, of all cells' lists, on average
constexpr int64_t kMargin = 3;          // cells around the boxes, and one for what rounding adds

int64_t most_cells(int64_t num_boxes) {
  const int64_t side = static_cast<int64_t>(std::sqrt(static_cast<double>(kCellsPerBox * num_boxes))) + kMargin;
  return side * side;
}

// The axis-aligned rectangle around a box, a little wider than it is.
struct Bounds {
  double low[2];
  double high[2];

  explicit Bounds(const SolidBox& box) {
    const double length = std::max(box.half_length, 0.0), width = std::max(box.half_width, 0.0);
    const double margin = 1e-6 * (length + width);
    const double x = std::fabs(box.cos) * length + std::fabs(box.sin) * width + margin;
    const double y = std::fabs(box.sin) * length + std::fabs(box.cos) * width + margin;
    low[0] = box.x - x;
    high[0] = box.x + x;
    low[1] = box.y - y;
    high[1] = box.y + y;
  }

  bool is_finite() const {
    return std::isfinite(low[0]) && std::isfinite(low[1]) && std::isfinite(high[0]) && std::isfinite(high[1]);
  }
};

template <typename T>
struct Span {
  T* first;
  T* last;
  T* begin() const { return first; }
  T* end() const { return last; }
};

// Boxes, and for each cell of a grid seen from above those that may hold a point there, their numbers rising. What lies
// beyond the grid counts to the cells at its edge, which no box touches.
class BoxCells {
 public:
  template <typename T>
  BoxCells(const PointsAndBoxes<T>& input, void* workspace)
      : num_boxes_(input.num_boxes), boxes_(static_cast<SolidBox*>(workspace)) {
    starts_ = reinterpret_cast<int32_t*>(boxes_ + num_boxes_);
    numbers_ = starts_ + most_cells(num_boxes_) + 1;
    for (int64_t m = 0; m < num_boxes_; ++m) boxes_[m] = solid_box(input.boxes + m * input.box_columns);
    choose_grid();
    fill_lists();
  }

  // The numbers of the boxes that may hold the point, rising.
  template <typename T>
  Span<const int32_t> candidates(const T* point) const {
    const int64_t cell = along(1, static_cast<double>(point[1])) * side_[0] + along(0, static_cast<double>(point[0]));
    return {numbers_ + starts_[cell], numbers_ + starts_[cell + 1]};
  }

  template <typename T>
  bool holds(int64_t box, const T* point) const {
    return perception::holds(boxes_[box], static_cast<double>(point[0]), static_cast<double>(point[1]),
                             static_cast<double>(point[2]));
  }

 private:
  // NaN counts as the first cell.
  int64_t along(int axis, double value) const {
    const double place = (value - low_[axis]) * scale_;
    if (!(place > 0)) return 0;
    return place < static_cast<double>(side_[axis]) ? static_cast<int64_t>(place) : side_[axis] - 1;
  }

  template <typename Touch>
  void touch_cells(const SolidBox& box, const Touch& touch) const {
    const Bounds bounds(box);
    const bool everywhere = side_[0] == 1;
    const int64_t from_x = everywhere ? 0 : along(0, bounds.low[0]), to_x = everywhere ? 0 : along(0, bounds.high[0]);
    const int64_t from_y = everywhere ? 0 : along(1, bounds.low[1]), to_y = everywhere ? 0 : along(1, bounds.high[1]);
    for (int64_t y = from_y; y <= to_y; ++y) {
      for (int64_t x = from_x; x <= to_x; ++x) touch(y * side_[0] + x);
    }
  }

  // Takes the smallest cells for which the lists stay short; a single cell where a box is not finite.
  void choose_grid() {
    side_[0] = side_[1] = 1;
    double low[2], high[2];
    std::fill_n(low, 2, std::numeric_limits<double>::infinity());
    std::fill_n(high, 2, -std::numeric_limits<double>::infinity());
    for (int64_t m = 0; m < num_boxes_; ++m) {
      const Bounds bounds(boxes_[m]);
      if (!bounds.is_finite()) return;
      for (int axis = 0; axis < 2; ++axis) {
        low[axis] = std::min(low[axis], bounds.low[axis]);
        high[axis] = std::max(high[axis], bounds.high[axis]);
      }
    }
    const double extent = std::max(high[0] - low[0], high[1] - low[1]);
    double width = extent / std::sqrt(static_cast<double>(kCellsPerBox * num_boxes_));
    if (!(width > 1e-30 && width < 1e30)) return;
    while (num_entries(width) > static_cast<double>(kEntriesPerBox * num_boxes_)) width *= 1.25;
    scale_ = 1 / width;
    for (int axis = 0; axis < 2; ++axis) {
      low_[axis] = low[axis] - width;
      side_[axis] = static_cast<int64_t>((high[axis] - low[axis]) * scale_) + kMargin;
    }
  }

  double num_entries(double width) const {
    double entries = 0;
    for (int64_t m = 0; m < num_boxes_; ++m) {
      const Bounds bounds(boxes_[m]);
      entries += ((bounds.high[0] - bounds.low[0]) / width + 2) * ((bounds.high[1] - bounds.low[1]) / width + 2);
    }
    return entries;
  }

  void fill_lists() {
    const int64_t num_cells = side_[0] * side_[1];
    std::fill_n(starts_, num_cells + 1, 0);
    for (int64_t m = 0; m < num_boxes_; ++m) touch_cells(boxes_[m], [&](int64_t cell) { ++starts_[cell + 1]; });
    for (int64_t cell = 0; cell < num_cells; ++cell) starts_[cell + 1] += starts_[cell];
    for (int64_t m = 0; m < num_boxes_; ++m)
      touch_cells(boxes_[m], [&](int64_t cell) { numbers_[starts_[cell]++] = static_cast<int32_t>(m); });
    // Filling moved every start to its list's end, which is the next one's start: shift them back by one.
    std::copy_backward(starts_, starts_ + num_cells, starts_ + num_cells + 1);
    starts_[0] = 0;
  }

  int64_t num_boxes_;
  SolidBox* boxes_;
  int32_t* starts_;   // where each cell's list starts in `numbers`
  int32_t* numbers_;  // of boxes
  double low_[2] = {0, 0};
  double scale_ = 0;  // cells per metre
  int64_t side_[2];
};

}  // namespace

int64_t points_in_boxes_workspace(int64_t num_boxes) {
  const int64_t numbers = most_cells(num_boxes) + 1 + kEntriesPerBox * num_boxes;
  return num_boxes * static_cast<int64_t>(sizeof(SolidBox)) + numbers * static_cast<int64_t>(sizeof(int32_t));
}

template <typename T>
void points_in_boxes(const Executor& executor, const PointsAndBoxes<T>& input, int64_t* first, void* workspace) {
  const BoxCells cells(input, workspace);
  executor.parallel_for(input.num_points, kPointsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* const point = input.points + i * input.point_columns;
      first[i] = -1;
      for (const int32_t box : cells.candidates(point)) {
        if (!cells.holds(box, point)) continue;
        first[i] = box;
        break;
      }
    }
  });
}

template <typename T>
void count_points_in_boxes(const Executor& executor, const PointsAndBoxes<T>& input, int64_t* counts, void* workspace) {
  const BoxCells cells(input, workspace);
  std::fill(counts, counts + input.num_boxes, int64_t{0});
  executor.parallel_for(input.num_points, kPointsPerTask, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> held(static_cast<size_t>(input.num_boxes));
    for (int64_t i = begin; i < end; ++i) {
      const T* const point = input.points + i * input.point_columns;
      for (const int32_t box : cells.candidates(point)) held[box] += cells.holds(box, point) ? 1 : 0;
    }
    for (int64_t m = 0; m < input.num_boxes; ++m) {  // whole numbers add up in any order
      if (held[m] > 0) __atomic_fetch_add(counts + m, held[m], __ATOMIC_RELAXED);
    }
  });
}

#define INSTANTIATE(T)                                                                          \
  template void points_in_boxes<T>(const Executor&, const PointsAndBoxes<T>&, int64_t*, void*); \
  template void count_points_in_boxes<T>(const Executor&, const PointsAndBoxes<T>&, int64_t*, void*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
