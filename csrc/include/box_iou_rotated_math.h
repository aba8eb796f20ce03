// Overlap of upright boxes, pair by pair, without a branch, so that loops over pairs vectorise.
#pragma once

#include <cmath>
#include <cstdint>

#include "include/host_device.h"

namespace perception {

// What pairs need of a box. A box that is not finite or has no size has size 0 and overlaps nothing. Seen from above
// boxes are 1 high and lie side by side.
template <typename T>
struct UprightBox {
  static constexpr int kFields = 10;

  T x, y, cos, sin, half_length, half_width;
  T bottom, top;
  T size;    // area, or volume
  T radius;  // of the circle around the footprint
};

template <typename T>
PERCEPTION_HOST_DEVICE T smaller(T a, T b) {
  return a < b ? a : b;
}

template <typename T>
PERCEPTION_HOST_DEVICE T larger(T a, T b) {
  return a > b ? a : b;
}

template <typename T>
PERCEPTION_HOST_DEVICE T limit(T value, T low, T high) {
  return smaller(larger(value, low), high);
}

// `box`: centre x y z, length width height, yaw. `volume`: in space, else from above.
template <typename T>
PERCEPTION_HOST_DEVICE UprightBox<T> upright_box(const T* box, bool volume) {
  bool valid = box[3] > T(0) && box[4] > T(0) && (!volume || box[5] > T(0));
  for (int i = 0; i < 7; ++i) valid = valid && box[i] - box[i] == T(0);
  if (!valid) return {T(0), T(0), T(1), T(0), T(0), T(0), T(0), T(0), T(0), T(0)};
  const T half_length = box[3] / 2, half_width = box[4] / 2;
  const T middle = volume ? box[2] : T(0), height = volume ? box[5] : T(1);
  const T radius = std::sqrt(half_length * half_length + half_width * half_width);
  return {box[0],
          box[1],
          std::cos(box[6]),
          std::sin(box[6]),
          half_length,
          half_width,
          middle - height / 2,
          middle + height / 2,
          box[3] * box[4] * height,
          radius};
}

// Signed area between the x axis and a directed edge within the rectangle |x| <= half_x, |y| <= half_y, where the edge
// counts as lying on the rectangle's border while it is above or below it. The edge starts at (x, y) and goes by
// (dx, dy). A continuous function of the edge, so that edges that nearly coincide with the border do no harm.
template <typename T>
PERCEPTION_HOST_DEVICE T area_under_edge(T x, T y, T dx, T dy, T per_dx, T per_dy, T half_x, T half_y) {
  const T left = (-half_x - x) * per_dx, right = (half_x - x) * per_dx;  // where it crosses, as shares of the edge
  const T begin = limit(smaller(left, right), T(0), T(1)), end = limit(larger(left, right), T(0), T(1));
  const T below = (-half_y - y) * per_dy, above = (half_y - y) * per_dy;
  const T enter = limit(smaller(below, above), begin, end), leave = limit(larger(below, above), begin, end);
  const T y_enter = limit(y + enter * dy, -half_y, half_y), y_leave = limit(y + leave * dy, -half_y, half_y);
  const T middle = (enter + leave) / 2;
  return dx * (y_enter * (middle - begin) + y_leave * (end - middle));
}

// 1 / step, but finite where the step vanishes: its edge then covers no area, whatever this is.
template <typename T>
PERCEPTION_HOST_DEVICE T reciprocal(T step) {
  return step / (step * step + T(1e-30));
}

// Area that two footprints share, from the edges of b within the rectangle a; exactly 0 where one of their sides
// separates them.
template <typename T>
PERCEPTION_HOST_DEVICE T shared_area(const UprightBox<T>& a, const UprightBox<T>& b) {
  const T dx = b.x - a.x, dy = b.y - a.y;
  const T x = dx * a.cos + dy * a.sin, y = dy * a.cos - dx * a.sin;  // in the axes of a
  const T cos = a.cos * b.cos + a.sin * b.sin, sin = b.sin * a.cos - b.cos * a.sin;
  const T ux = b.half_length * cos, uy = b.half_length * sin;  // from the centre to the front
  const T vx = -b.half_width * sin, vy = b.half_width * cos;   // from the centre to the left
  const T per_ux = reciprocal(2 * ux), per_uy = reciprocal(2 * uy);
  const T per_vx = reciprocal(2 * vx), per_vy = reciprocal(2 * vy);
  const T left = area_under_edge(x - ux + vx, y - uy + vy, 2 * ux, 2 * uy, per_ux, per_uy, a.half_length, a.half_width);
  const T right =
      area_under_edge(x - ux - vx, y - uy - vy, 2 * ux, 2 * uy, per_ux, per_uy, a.half_length, a.half_width);
  const T rear = area_under_edge(x - ux - vx, y - uy - vy, 2 * vx, 2 * vy, per_vx, per_vy, a.half_length, a.half_width);
  const T front =
      area_under_edge(x + ux - vx, y + uy - vy, 2 * vx, 2 * vy, per_vx, per_vy, a.half_length, a.half_width);
  const T area = larger((left - right) + (rear - front), T(0));

  const T other_x = std::fabs(dx * b.cos + dy * b.sin), other_y = std::fabs(dy * b.cos - dx * b.sin);  // axes of b
  const T abs_cos = std::fabs(cos), abs_sin = std::fabs(sin);
  const T gap_x = std::fabs(x) - (a.half_length + b.half_length * abs_cos + b.half_width * abs_sin);
  const T gap_y = std::fabs(y) - (a.half_width + b.half_length * abs_sin + b.half_width * abs_cos);
  const T other_gap_x = other_x - (b.half_length + a.half_length * abs_cos + a.half_width * abs_sin);
  const T other_gap_y = other_y - (b.half_width + a.half_length * abs_sin + a.half_width * abs_cos);
  const T gap = larger(larger(gap_x, gap_y), larger(other_gap_x, other_gap_y));
  return gap < T(0) ? area : T(0);
}

// Intersection over union, in [0, 1].
template <typename T>
PERCEPTION_HOST_DEVICE T overlap(const UprightBox<T>& a, const UprightBox<T>& b) {
  const T height = larger(smaller(a.top, b.top) - larger(a.bottom, b.bottom), T(0));
  const T shared = smaller(shared_area(a, b) * height, smaller(a.size, b.size));
  const T all = a.size + b.size - shared;
  const T ratio = shared / (all > T(0) ? all : T(1));
  return ratio > T(0) ? smaller(ratio, T(1)) : T(0);
}

}  // namespace perception
