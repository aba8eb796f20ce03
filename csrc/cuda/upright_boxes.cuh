// Upright boxes made ready for pairs, on the device.
#pragma once

#include "cuda/launch.cuh"
#include "include/upright_boxes.h"

namespace perception {

template <typename T>
__global__ void prepare_each(const T* boxes, int64_t columns, bool volume, UprightBoxes<T> prepared) {
  for (int64_t i = first_item(); i < prepared.count; i += item_stride()) {
    prepared.set(i, upright_box(boxes + i * columns, volume));
  }
}

// `count` is positive.
template <typename T>
UprightBoxes<T> prepare_boxes(const Executor& executor, const T* boxes, int64_t count, int64_t columns, bool volume,
                              T* fields) {
  const UprightBoxes<T> prepared{fields, count};
  prepare_each<<<blocks_for(count), kThreads, 0, stream_of(executor)>>>(boxes, columns, volume, prepared);
  check_cuda(cudaGetLastError(), "prepare boxes");
  return prepared;
}

}  // namespace perception
