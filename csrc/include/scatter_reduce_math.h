// The reductions of scatter_reduce, element by element.
#pragma once

#include <cstdint>

#include "include/host_device.h"

namespace perception {

enum class Reduce { kSum, kMean, kMax };

// Whether a later element takes the place of the largest so far: the first of equals stays, NaN beats numbers.
template <typename T>
PERCEPTION_HOST_DEVICE bool replaces_largest(T candidate, T largest) {
  return candidate > largest || (candidate != candidate && largest == largest);
}

// What share of its segment's gradient a row receives, where it receives any.
template <typename T>
PERCEPTION_HOST_DEVICE T gradient_scale(Reduce reduce, int64_t count) {
  return reduce == Reduce::kMean ? T(1) / static_cast<T>(count) : T(1);
}

}  // namespace perception
