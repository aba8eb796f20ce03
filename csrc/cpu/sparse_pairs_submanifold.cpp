#include <algorithm>
#include <cstdlib>
#include <utility>

#include "cpu/sparse_pairs_search.h"

namespace perception {
namespace {

constexpr int64_t kVoxelsPerChunk = 1024;

// Elements of a submanifold's kernel that see cells in a row.
struct Run {
  int64_t step[3];   // z y x from a voxel to the first cell
  int64_t key_step;  // the same between their keys
  int64_t width;     // cells
  int32_t element;   // that sees the first cell
};

std::vector<Run> runs_of(const SparseGeometry& geometry) {
  const int64_t* const shape = geometry.in_shape;
  const int64_t width = geometry.dilation[2] == 1 ? geometry.kernel[2] : 1;
  std::vector<Run> runs;
  for (int64_t element = 0; element < geometry.num_offsets(); element += width) {
    Run run{{}, 0, width, static_cast<int32_t>(element)};
    int64_t place[3];
    kernel_place(geometry, element, place);
    bool ever_inside = true;
    for (int axis = 0; axis < 3; ++axis) {
      run.step[axis] = place[axis] * geometry.dilation[axis] - geometry.padding[axis];
      ever_inside = ever_inside && std::abs(run.step[axis]) < shape[axis] + width;
    }
    if (!ever_inside) continue;
    run.key_step = (run.step[0] * shape[1] + run.step[1]) * shape[2] + run.step[2];
    runs.push_back(run);
  }
  return runs;
}

// Finds the neighbours of sorted voxels: as voxels rise, so do the cells that each run sees, and a position among the
// items follows them.
class NeighbourWalk {
 public:
  // `items` end with some of a key above all others, as many as a run is wide.
  NeighbourWalk(const SparseGeometry& geometry, const std::vector<Run>& runs, const Keyed* items, int64_t count)
      : shape_(geometry.in_shape), runs_(runs), items_(items), count_(count) {}

  // Writes to `end` what the voxels of the next row meet, to `ends` where each one's meetings end, and gives the last.
  Meeting* list(const Row& row, Meeting* end, Meeting** ends) {
    enter(row);
    for (int64_t item = row.begin; item < row.end; ++item) {
      for (const size_t run : runs_inside_) end = see(run, row, items_[item].key, end);
      ends[item - row.begin] = end;
    }
    return end;
  }

 private:
  // Leaves out the runs that see nothing from the whole row.
  void enter(const Row& row) {
    if (positions_.empty()) {
      for (const Run& run : runs_) positions_.push_back(first_from(row.key + run.key_step));
    }
    runs_inside_.clear();
    for (size_t number = 0; number < runs_.size(); ++number) {
      const Run& run = runs_[number];
      const int64_t z = row.coords[1] + run.step[0], y = row.coords[2] + run.step[1];
      if (z < 0 || z >= shape_[0] || y < 0 || y >= shape_[1]) continue;
      const int64_t first = items_[row.begin].key + run.key_step;
      const int64_t last = items_[row.end - 1].key + run.key_step + run.width;
      int64_t& position = positions_[number];
      while (items_[position].key < first) ++position;
      if (items_[position].key < last) runs_inside_.push_back(number);
    }
  }

  int64_t first_from(int64_t key) const {
    return std::lower_bound(items_, items_ + count_, key, [](const Keyed& a, int64_t b) { return a.key < b; }) - items_;
  }

  // Writes to `end` what the voxel with the key meets through a run, and gives where that ends.
  Meeting* see(size_t number, const Row& row, int64_t key, Meeting* end) {
    const Run& run = runs_[number];
    const int64_t first = key + run.key_step;  // may lie beside the row
    const int64_t row_begin = row.key + run.key_step - run.step[2], row_end = row_begin + shape_[2];
    const int64_t least = std::max(first, row_begin), most = std::min(first + run.width, row_end);
    const Keyed* at = items_ + positions_[number];
    while (at->key < least) ++at;
    positions_[number] = at - items_;
    const auto take = [&](int64_t i) {  // without a branch that nobody could predict
      *end = {static_cast<int32_t>(run.element + (at[i].key - first)), static_cast<int32_t>(at[i].number)};
      end += at[i].key < most;
    };
    if (run.width == 3) {  // unrolled for the usual kernel
      take(0);
      take(1);
      take(2);
    } else {
      for (int64_t i = 0; i < run.width; ++i) take(i);
    }
    return end;
  }

  const int64_t* shape_;
  const std::vector<Run>& runs_;
  const Keyed* items_;
  int64_t count_;
  std::vector<int64_t> positions_;   // of each run, the first item not below what it sees
  std::vector<size_t> runs_inside_;  // those that may see items from the row
};

}  // namespace

FoundPairs find_submanifold_pairs(const Executor& executor, const Scratch&, const SparseGeometry& geometry,
                                  const SparseVoxels& voxels) {
  const SortedVoxels sorted = sort_voxels(executor, geometry.in_shape, voxels, geometry.kernel[2]);
  if (sorted.bad_voxel >= 0) return {0, 0, sorted.bad_voxel, nullptr};
  const Keyed* const items = sorted.items.get();
  const std::vector<Run> runs = runs_of(geometry);
  const auto search = std::make_shared<PairSearch>();
  search->geometry = geometry;
  search->by_output.resize(static_cast<size_t>(voxels.count));
  const int64_t num_chunks = (voxels.count + kVoxelsPerChunk - 1) / kVoxelsPerChunk;
  search->neighbours.resize(static_cast<size_t>(num_chunks));
  executor.parallel_for(num_chunks, 1, [&](int64_t first_chunk, int64_t last_chunk) {
    const std::unique_ptr<Meeting[]> found = uninitialised<Meeting>(kVoxelsPerChunk * geometry.num_offsets());
    Meeting* ends[kVoxelsPerChunk];
    for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
      const int64_t begin = chunk * kVoxelsPerChunk, end = std::min(begin + kVoxelsPerChunk, voxels.count);
      NeighbourWalk walk(geometry, runs, items, voxels.count);
      Meeting* last = found.get();
      visit_rows(geometry.in_shape, items, begin, end,
                 [&](const Row& row) { last = walk.list(row, last, ends + (row.begin - begin)); });
      std::vector<Meeting>& meetings = search->neighbours[static_cast<size_t>(chunk)];
      meetings.assign(found.get(), last);
      const Meeting* first = meetings.data();
      for (int64_t item = begin; item < end; ++item) {
        const Meeting* const next = meetings.data() + (ends[item - begin] - found.get());
        search->by_output[static_cast<size_t>(items[item].number)] = {first, next};
        first = next;
      }
    }
  });
  int64_t num_pairs = 0;
  for (const std::vector<Meeting>& meetings : search->neighbours) num_pairs += static_cast<int64_t>(meetings.size());
  return {num_pairs, voxels.count, -1, search};
}

}  // namespace perception
