// Division of whole numbers by way of double, as processors do that several times faster and in vectors.
#pragma once

#include <cstdint>

#include "include/host_device.h"

namespace perception {

// The quotient, rounded down, of whole numbers from 0 to below 2^53: rounding cannot carry it up to the next one.
PERCEPTION_HOST_DEVICE int64_t exact_quotient(int64_t number, int64_t divisor) {
  return static_cast<int64_t>(static_cast<double>(number) / static_cast<double>(divisor));
}

}  // namespace perception
