// A ray through a grid of voxels, cell after cell. Axes are in x, y, z order.
#pragma once

#include <cmath>
#include <cstdint>

#include "include/host_device.h"

namespace perception {

template <typename T>
struct RayGrid {
  T lower[3];  // metres
  T cell[3];   // metres
  int64_t count[3];
  int32_t stride[3];  // what one cell further adds to a cell's number; all numbers are below 2^31
  T max_range;        // metres
};

// Where a ray is and where it goes. It reaches the next plane along an axis at first + taken * period; planes are
// counted and not added up, so that errors do not grow on the way.
template <typename T>
struct Ray {
  T first[3];       // metres to the first plane along each axis, infinite for none
  T period[3];      // metres from plane to plane
  T last[3];        // planes before the one that leads out of the grid
  int32_t step[3];  // what a plane adds to the cell's number
  int32_t cell;     // number of the first cell, -1 where the ray misses the grid
  T entry;          // metres to the first cell
};

template <typename T>
struct AxisSpan {
  T place;  // of the origin, in cells
  T speed;  // cells per metre
  T enter;  // metres to where the ray enters the grid's range
  T leave;
  int meets;  // 1 or 0
};

template <typename T>
PERCEPTION_HOST_DEVICE AxisSpan<T> span_axis(const RayGrid<T>& grid, int axis, T origin, T direction) {
  const T infinity = static_cast<T>(HUGE_VALF), count = static_cast<T>(grid.count[axis]);
  const T place = (origin - grid.lower[axis]) / grid.cell[axis], speed = direction / grid.cell[axis];
  const int still = speed == T(0) ? 1 : 0;
  const T divisor = still != 0 ? T(1) : speed;
  const T low = -place / divisor, high = (count - place) / divisor;
  const T near = low < high ? low : high, far = low < high ? high : low;
  const int within = (place >= T(0) ? 1 : 0) & (place < count ? 1 : 0);
  const int finite = place - place == T(0) ? 1 : 0;
  return {place, speed, still != 0 ? -infinity : near, still != 0 ? infinity : far, finite & (within | (1 - still))};
}

// Sets one axis of `ray`, which meets the grid at `enter`, and gives the first cell along it.
template <typename T>
PERCEPTION_HOST_DEVICE int32_t start_axis(const RayGrid<T>& grid, int axis, const AxisSpan<T>& span, T enter,
                                          Ray<T>* ray) {
  const T infinity = static_cast<T>(HUGE_VALF), last = static_cast<T>(grid.count[axis] - 1);
  const T inside = std::floor(span.place + enter * span.speed);
  const T bounded = inside > T(0) ? inside : T(0);
  const T cell = bounded < last ? bounded : last;
  const int forward = span.speed > T(0) ? 1 : 0, still = span.speed == T(0) ? 1 : 0;
  const T divisor = still != 0 ? T(1) : span.speed;
  const T first = (cell + static_cast<T>(forward) - span.place) / divisor;
  ray->first[axis] = still != 0 ? infinity : first;
  ray->period[axis] = still != 0 ? T(0) : T(1) / std::fabs(divisor);
  ray->last[axis] = forward != 0 ? last - cell : cell;
  ray->step[axis] = forward != 0 ? grid.stride[axis] : -grid.stride[axis];
  return static_cast<int32_t>(cell) * grid.stride[axis];
}

// Rays that are not finite or have no direction miss the grid. Without a branch, so that loops over rays vectorise.
template <typename T>
PERCEPTION_HOST_DEVICE Ray<T> start_ray(const RayGrid<T>& grid, const T* origin, const T* direction) {
  const T length = std::sqrt(direction[0] * direction[0] + direction[1] * direction[1] + direction[2] * direction[2]);
  const AxisSpan<T> x = span_axis(grid, 0, origin[0], direction[0] / length);
  const AxisSpan<T> y = span_axis(grid, 1, origin[1], direction[1] / length);
  const AxisSpan<T> z = span_axis(grid, 2, origin[2], direction[2] / length);
  const T enter_yz = y.enter > z.enter ? y.enter : z.enter, enter_xyz = x.enter > enter_yz ? x.enter : enter_yz;
  const T leave_yz = y.leave < z.leave ? y.leave : z.leave, leave_xyz = x.leave < leave_yz ? x.leave : leave_yz;
  const T enter = enter_xyz > T(0) ? enter_xyz : T(0);
  const T leave = leave_xyz < grid.max_range ? leave_xyz : grid.max_range;
  const int has_direction = (length > T(0) ? 1 : 0) & (length - length == T(0) ? 1 : 0);
  const int meets = x.meets & y.meets & z.meets & has_direction & (enter <= leave ? 1 : 0);
  const T start = meets != 0 ? enter : T(0);
  Ray<T> ray;
  int32_t cell = start_axis(grid, 0, x, start, &ray);
  cell += start_axis(grid, 1, y, start, &ray);
  cell += start_axis(grid, 2, z, start, &ray);
  ray.cell = meets != 0 ? cell : -1;
  ray.entry = enter;
  return ray;
}

}  // namespace perception
