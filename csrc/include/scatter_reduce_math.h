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

// What element (row, channel) of the input receives of its segment's gradient.
template <typename T>
PERCEPTION_HOST_DEVICE T input_gradient(Reduce reduce, T gradient, int64_t count, bool is_largest) {
  if (reduce == Reduce::kMax) return is_largest ? gradient : T(0);
  return reduce == Reduce::kMean ? gradient / static_cast<T>(count) : gradient;
}

}  // namespace perception
