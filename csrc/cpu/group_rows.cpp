#include "ops/group_rows.h"

#include <algorithm>

namespace perception {

int64_t group_rows_workspace(int64_t) { return 0; }

// A counting sort on one thread: three passes over memory, and the only order that keeps rows rising within a group.
int64_t group_rows(const Executor&, const int64_t* index, int64_t num_rows, int64_t num_groups, int64_t* order,
                   int64_t* offsets, void*) {
  std::fill(offsets, offsets + num_groups + 1, int64_t{0});
  for (int64_t row = 0; row < num_rows; ++row) {
    const int64_t group = index[row];
    if (group < -1 || group >= num_groups) return row;
    if (group >= 0) ++offsets[group + 1];
  }
  for (int64_t group = 0; group < num_groups; ++group) offsets[group + 1] += offsets[group];
  int64_t next_dropped = offsets[num_groups];
  for (int64_t row = 0; row < num_rows; ++row) {
    const int64_t group = index[row];
    order[group < 0 ? next_dropped++ : offsets[group]++] = row;
  }
  // Filling moved every start to its group's end, which is the next group's start: shift them back by one.
  std::copy_backward(offsets, offsets + num_groups, offsets + num_groups + 1);
  offsets[0] = 0;
  return -1;
}

}  // namespace perception
