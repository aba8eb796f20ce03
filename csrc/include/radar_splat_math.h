// The footprint of a radar return on the BEV: a Gaussian, cut at three sigma, over the cells' centres.
#pragma once

#include <cmath>
#include <cstdint>

#include "include/host_device.h"

namespace perception {

struct BevGrid {
  double lower_m[2];  // x y
  double cell_m[2];
  int64_t columns;
  int64_t rows;
};

constexpr double kFootprintSigmas = 3;
// Returns that are known worse than this many cells are cut off there, so that no return takes unbounded time.
constexpr double kMaxFootprintCells = 64;

// Cells first .. last, both included and possibly outside the grid, around a centre in cells (whole numbers are centres
// of cells); weights fall with xx, xy and yy times the cells' distances, halved and negated, to the exponent.
struct Footprint {
  double center[2];  // x y
  double xx, xy, yy;
  int64_t first[2];
  int64_t last[2];

  // 0 outside the ellipse.
  PERCEPTION_HOST_DEVICE double density(int64_t column, int64_t row) const {
    const double x = static_cast<double>(column) - center[0];
    const double y = static_cast<double>(row) - center[1];
    const double squared = xx * x * x + 2 * xy * x * y + yy * y * y;
    return squared <= kFootprintSigmas * kFootprintSigmas ? std::exp(-0.5 * squared) : 0.0;
  }

  // One over the sum of all weights, on the grid and off it.
  PERCEPTION_HOST_DEVICE double normalizer() const {
    double sum = 0;
    for (int64_t row = first[1]; row <= last[1]; ++row) {
      for (int64_t column = first[0]; column <= last[0]; ++column) sum += density(column, row);
    }
    return 1 / sum;
  }
};

// Finds the footprint of a return at `position` (x, y) with covariance (xx, xy, yx, yy), metres. The variance of a
// cell's own width is added, so that at least one centre is always near enough. Says false where no cell of the grid
// can be in it, and where a number is NaN or infinite or the covariance is none.
PERCEPTION_HOST_DEVICE bool radar_footprint(const BevGrid& grid, const double* position, const double* covariance,
                                            Footprint* footprint) {
  const double xx = covariance[0] / (grid.cell_m[0] * grid.cell_m[0]);
  const double xy = covariance[1] / (grid.cell_m[0] * grid.cell_m[1]);
  const double yy = covariance[3] / (grid.cell_m[1] * grid.cell_m[1]);
  if (!(xx >= 0 && yy >= 0 && xx * yy >= xy * xy && xx < 1e12 && yy < 1e12)) return false;
  constexpr double kCellVariance = 1.0 / 12;
  const double wide_xx = xx + kCellVariance;
  const double wide_yy = yy + kCellVariance;
  const double determinant = wide_xx * wide_yy - xy * xy;
  footprint->xx = wide_yy / determinant;
  footprint->xy = -xy / determinant;
  footprint->yy = wide_xx / determinant;
  const double variance[2] = {wide_xx, wide_yy};
  const int64_t cells[2] = {grid.columns, grid.rows};
  for (int axis = 0; axis < 2; ++axis) {
    const double center = (position[axis] - grid.lower_m[axis]) / grid.cell_m[axis] - 0.5;
    const double exact = kFootprintSigmas * std::sqrt(variance[axis]);
    const double reach = exact < kMaxFootprintCells ? exact : kMaxFootprintCells;
    // NaN and infinity fail this before anything is made a whole number of them.
    if (!(center + reach >= 0 && center - reach <= static_cast<double>(cells[axis] - 1))) return false;
    footprint->center[axis] = center;
    footprint->first[axis] = static_cast<int64_t>(std::ceil(center - reach));
    footprint->last[axis] = static_cast<int64_t>(std::floor(center + reach));
  }
  return true;
}

// How returns with a known velocity move in one cell, summed up one by one without loss (West, "Updating mean and
// variance estimates", 1979).
struct CellMotion {
  double density;  // of all returns
  double known;    // of those with a velocity
  double mean[2];
  double squares;  // weighted squared distances from the mean

  PERCEPTION_HOST_DEVICE void add(double weight, const double* velocity) {
    density += weight;
    if (!(std::isfinite(velocity[0]) && std::isfinite(velocity[1]))) return;
    known += weight;
    for (int axis = 0; axis < 2; ++axis) {
      const double before = velocity[axis] - mean[axis];
      mean[axis] += before * weight / known;
      squares += weight * before * (velocity[axis] - mean[axis]);
    }
  }

  // Rounding may leave a little less than no spread.
  PERCEPTION_HOST_DEVICE double spread() const { return squares > 0 ? std::sqrt(squares / known) : 0.0; }
};

}  // namespace perception
