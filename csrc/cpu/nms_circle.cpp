#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/nms.h"

namespace perception {
namespace {

constexpr int64_t kNone = -1;

// The kept centres in square cells at least as wide as the radius, so that what is near a place lies in its own cell or
// in the eight around it. Each cell starts a chain of centres; empty cells lie all around the grid.
struct Cells {
  const double* centers;
  int64_t side;  // cells along x and along y
  double low[2];
  double scale;  // cells per metre
  int64_t* first;
  int64_t* next;

  static int64_t side_for(int64_t count) { return static_cast<int64_t>(2 * std::sqrt(static_cast<double>(count))) + 1; }
  static int64_t num_cells(int64_t side) { return (side + 2) * (side + 2); }

  // NaN, where the grid is infinitely wide, counts as the first cell.
  int64_t along(int axis, double value) const {
    const double place = (value - low[axis]) * scale;
    if (!(place > 0)) return 1;
    return place < static_cast<double>(side) ? static_cast<int64_t>(place) + 1 : side;
  }

  int64_t cell(int64_t row) const { return along(1, centers[2 * row + 1]) * (side + 2) + along(0, centers[2 * row]); }

  bool has_near(int64_t row, int64_t cell, double radius_m) const {
    const double x = centers[2 * row], y = centers[2 * row + 1];
    for (int64_t line = cell - side - 2; line <= cell + side + 2; line += side + 2) {
      for (int64_t at = line - 1; at <= line + 1; ++at) {
        for (int64_t other = first[at]; other != kNone; other = next[other]) {
          const double dx = x - centers[2 * other], dy = y - centers[2 * other + 1];
          if (std::sqrt(dx * dx + dy * dy) <= radius_m) return true;
        }
      }
    }
    return false;
  }

  void add(int64_t row, int64_t cell) {
    next[row] = first[cell];
    first[cell] = row;
  }
};

bool is_valid(const CircleCandidates& candidates, int64_t row) {
  const double x = candidates.centers[2 * row], y = candidates.centers[2 * row + 1];
  return std::isfinite(x) && std::isfinite(y) && !std::isnan(candidates.scores[row]);
}

// Cells are wider than the radius by more than rounding takes away.
Cells make_cells(const CircleCandidates& candidates, double radius_m, int64_t* memory) {
  const int64_t side = Cells::side_for(candidates.count);
  Cells cells{candidates.centers, side, {0, 0}, 0, memory, memory + Cells::num_cells(side)};
  double extent = 0;
  for (int axis = 0; axis < 2; ++axis) {
    double low = std::numeric_limits<double>::infinity(), high = -low;
    for (int64_t row = 0; row < candidates.count; ++row) {
      const double value = candidates.centers[2 * row + axis];
      if (!std::isfinite(value)) continue;
      low = value < low ? value : low;
      high = value > high ? value : high;
    }
    cells.low[axis] = low;
    extent = std::max(extent, high - low);
  }
  const double width = std::max(1.001 * radius_m, extent / static_cast<double>(side));
  cells.scale = width > 1e-300 ? 1 / width : 0;
  std::fill_n(cells.first, Cells::num_cells(side), kNone);
  return cells;
}

}  // namespace

int64_t nms_circle_workspace(int64_t count) {
  return (Cells::num_cells(Cells::side_for(count)) + count) * static_cast<int64_t>(sizeof(int64_t));
}

// One thread: what stays is found within microseconds.
void nms_circle(const Executor&, const CircleCandidates& candidates, double radius_m, bool* kept, void* workspace) {
  Cells cells = make_cells(candidates, radius_m, static_cast<int64_t*>(workspace));
  for (int64_t i = 0; i < candidates.count; ++i) {
    const int64_t row = candidates.order[i];
    kept[i] = false;
    if (row < 0 || row >= candidates.count || !is_valid(candidates, row)) continue;
    const int64_t cell = cells.cell(row);
    if (cells.has_near(row, cell, radius_m)) continue;
    kept[i] = true;
    cells.add(row, cell);
  }
}

}  // namespace perception
