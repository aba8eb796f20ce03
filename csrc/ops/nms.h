// Non-maximum suppression: from the best candidate down, each that no kept one suppresses is kept.
#pragma once

#include <cstdint>

#include "include/executor.h"

namespace perception {

// Bytes that nms_rotated needs besides its output, for numbers of `number_bytes` each.
int64_t nms_rotated_workspace(int64_t count, int64_t number_bytes);

// Suppresses boxes whose footprints overlap a kept one's by more than `threshold` (intersection over union).
//   boxes (count, columns): centre x y z, length width height, yaw, then whatever else; the best first
//   kept (count)
template <typename T>
void nms_rotated(const Executor& executor, const T* boxes, int64_t count, int64_t columns, double threshold, bool* kept,
                 void* workspace);

struct CircleCandidates {
  const double* centers;  // (count, 2) x y
  const double* scores;   // (count)
  const int64_t* order;   // (count) rows, the best first
  int64_t count;
};

// Bytes that nms_circle needs besides its output.
int64_t nms_circle_workspace(int64_t count);

// Suppresses centres at most `radius_m`, which is not negative, from a kept one. Centres that are not finite, scores
// that are NaN and rows that do not exist are not kept and suppress nothing.
//   kept (count): whether order[i] is kept
void nms_circle(const Executor& executor, const CircleCandidates& candidates, double radius_m, bool* kept,
                void* workspace);

}  // namespace perception
