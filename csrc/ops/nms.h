// Non-maximum suppression: from the best candidate down, each that no kept one suppresses is kept.
#pragma once

#include <cstdint>

#include "include/executor.h"

namespace perception {

// Bytes that both functions need besides their output, for numbers of `number_bytes` each.
int64_t nms_workspace(int64_t count, int64_t number_bytes);

// Suppresses boxes whose footprints overlap a kept one's by more than `threshold` (intersection over union).
//   boxes (count, columns): centre x y z, length width height, yaw, then whatever else; the best first
//   kept (count)
template <typename T>
void nms_rotated(const Executor& executor, const T* boxes, int64_t count, int64_t columns, double threshold, bool* kept,
                 void* workspace);

// Suppresses centres at most `radius_m` from a kept one.
//   centers (count, 2), the best first
//   kept (count)
void nms_circle(const Executor& executor, const double* centers, int64_t count, double radius_m, bool* kept,
                void* workspace);

}  // namespace perception
