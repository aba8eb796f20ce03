#include "ops/sparse_pairs.h"

#include <algorithm>

#include "cpu/sparse_pairs_search.h"

namespace perception {

constexpr int64_t kLeastTargets = 8192;
constexpr int64_t kPrefetchAhead = 16;  // targets

SortedVoxels sort_voxels(const Executor& executor, const int64_t* shape, const SparseVoxels& voxels, int64_t padding) {
  SortedVoxels sorted{uninitialised<Keyed>(voxels.count + padding), -1};
  executor.parallel_for(voxels.count, kLeastItemsSorted, [&](int64_t begin, int64_t end) {
    for (int64_t voxel = begin; voxel < end; ++voxel) {
      sorted.items[voxel] = {cell_key(shape, voxels.coords + 4 * voxel), voxel};
    }
  });
  for (int64_t voxel = 0; voxel < voxels.count; ++voxel) {
    if (sorted.items[voxel].key < 0) return {nullptr, voxel};
  }
  sort_by_key(executor, voxels.count, sorted.items, uninitialised<Keyed>(voxels.count + padding));
  int64_t repeated = voxels.count;
  for (int64_t i = 1; i < voxels.count; ++i) {
    if (sorted.items[i].key == sorted.items[i - 1].key) repeated = std::min(repeated, sorted.items[i].number);
  }
  if (repeated < voxels.count) return {nullptr, repeated};
  std::fill_n(sorted.items.get() + voxels.count, padding, Keyed{kKeyLimit, 0});
  return sorted;
}

void list_outputs(const Executor& executor, const FoundPairs& found, int64_t* coords) {
  const int64_t* const shape = found.search->geometry.out_shape;
  const Keyed* const outputs = found.search->outputs.data();
  executor.parallel_for(found.num_outputs, kVoxelsPerTask, [&](int64_t begin, int64_t end) {
    visit_rows(shape, outputs, begin, end, [&](const Row& row) {
      for (int64_t output = row.begin; output < row.end; ++output) {
        std::copy_n(row.coords, 3, coords + 4 * output);
        coords[4 * output + 3] = outputs[output].key - row.key;
      }
    });
  });
}

void list_pairs(const Executor& executor, const FoundPairs& found, PairTargets ends, int64_t* offsets, int64_t* sources,
                int64_t* targets) {
  const PairSearch& search = *found.search;
  const std::vector<Meetings>& meetings_of = ends == PairTargets::kOutputs ? search.by_output : search.by_input;
  const int64_t num_elements = search.geometry.num_offsets(), num_targets = static_cast<int64_t>(meetings_of.size());
  const auto take = [&](int64_t target) -> const Meetings& {  // they may lie in another order than the targets'
    __builtin_prefetch(meetings_of[static_cast<size_t>(std::min(target + kPrefetchAhead, num_targets - 1))].first);
    return meetings_of[static_cast<size_t>(target)];
  };
  Places places(executor, num_targets, num_elements, kLeastTargets);
  places.each_chunk([&](int64_t* counts, int64_t begin, int64_t end) {
    for (int64_t target = begin; target < end; ++target) {
      for (const Meeting& meeting : take(target)) ++counts[meeting.element];
    }
  });
  offsets[num_elements] = places.number([&](int64_t element, int64_t first) { offsets[element] = first; });
  places.each_chunk([&](int64_t* next, int64_t begin, int64_t end) {
    for (int64_t target = begin; target < end; ++target) {
      for (const Meeting& meeting : take(target)) {
        const int64_t pair = next[meeting.element]++;
        sources[pair] = meeting.partner;
        targets[pair] = target;
      }
    }
  });
}

}  // namespace perception
