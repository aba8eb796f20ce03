#include "ops/nms.h"

#include "cpu/upright_overlaps.h"

namespace perception {
namespace {

constexpr int64_t kRows = 256;  // candidates whose effect on all later ones is found together
constexpr int64_t kColumnsPerTask = 512;

// Calls suppress(row, begin, end, kept) so that it clears kept[i] of what `row` suppresses in [begin, end).
template <typename Suppress>
void keep_greedily(const Executor& executor, int64_t count, const Suppress& suppress, bool* kept) {
  std::fill_n(kept, count, true);
  for (int64_t begin = 0; begin < count; begin += kRows) {
    const int64_t end = std::min(begin + kRows, count);
    for (int64_t row = begin; row < end; ++row) {
      if (kept[row]) suppress(row, row + 1, end);
    }
    executor.parallel_for(count - end, kColumnsPerTask, [&](int64_t from, int64_t to) {
      for (int64_t row = begin; row < end; ++row) {
        if (kept[row]) suppress(row, end + from, end + to);
      }
    });
  }
}

template <typename T>
PERCEPTION_MULTIVERSION void suppress_boxes(const UprightBoxes<T>& boxes, int64_t row, int64_t begin, int64_t end,
                                            T threshold, bool* kept) {
  overlaps(boxes[row], boxes, begin, end, [&](int64_t from, int64_t to, const T* found) {
    for (int64_t i = from; found != nullptr && i < to; ++i) kept[i] = kept[i] && !(found[i - from] > threshold);
  });
}

}  // namespace

int64_t nms_rotated_workspace(int64_t count, int64_t number_bytes) {
  return count * number_bytes * UprightBox<float>::kFields;
}

template <typename T>
void nms_rotated(const Executor& executor, const T* boxes, int64_t count, int64_t columns, double threshold, bool* kept,
                 void* workspace) {
  const UprightBoxes<T> prepared = prepare_boxes(executor, boxes, count, columns, false, static_cast<T*>(workspace));
  const T limit = static_cast<T>(threshold);
  const auto suppress = [&](int64_t row, int64_t begin, int64_t end) {
    suppress_boxes(prepared, row, begin, end, limit, kept);
  };
  keep_greedily(executor, count, suppress, kept);
}

template void nms_rotated<float>(const Executor&, const float*, int64_t, int64_t, double, bool*, void*);
template void nms_rotated<double>(const Executor&, const double*, int64_t, int64_t, double, bool*, void*);

}  // namespace perception
