// Upright boxes column by column, as vector units and warps like to read them.
#pragma once

#include "include/box_iou_rotated_math.h"

namespace perception {

template <typename T>
struct UprightBoxes {
  T* fields;  // (UprightBox::kFields, count)
  int64_t count;

  PERCEPTION_HOST_DEVICE T* field(int number, int64_t i) const { return fields + number * count + i; }

  PERCEPTION_HOST_DEVICE UprightBox<T> operator[](int64_t i) const {
    return {*field(0, i), *field(1, i), *field(2, i), *field(3, i), *field(4, i),
            *field(5, i), *field(6, i), *field(7, i), *field(8, i), *field(9, i)};
  }

  PERCEPTION_HOST_DEVICE void set(int64_t i, const UprightBox<T>& box) const {
    const T values[] = {box.x,          box.y,      box.cos, box.sin,  box.half_length,
                        box.half_width, box.bottom, box.top, box.size, box.radius};
    for (int number = 0; number < UprightBox<T>::kFields; ++number) *field(number, i) = values[number];
  }

  // Whether the circle around box i meets that of `other`; boxes for which it does not cannot overlap.
  PERCEPTION_HOST_DEVICE bool is_near(const UprightBox<T>& other, int64_t i) const {
    const T dx = *field(0, i) - other.x, dy = *field(1, i) - other.y, reach = *field(9, i) + other.radius;
    return dx * dx + dy * dy <= reach * reach;
  }
};

}  // namespace perception
