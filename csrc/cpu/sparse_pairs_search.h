// What the searches for submanifold and strided pairs share, on the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/sparse_pairs_sort.h"
#include "ops/sparse_pairs.h"

namespace perception {

constexpr int64_t kVoxelsPerTask = 1024;

struct Meeting {
  int32_t element;
  int32_t partner;
};

// The meetings of one voxel, in any order, as no element is met twice.
struct Meetings {
  const Meeting* first;
  const Meeting* last;

  const Meeting* begin() const { return first; }
  const Meeting* end() const { return last; }
};

// Voxels that differ in x alone: neighbours in the order of keys.
struct Row {
  int64_t coords[4];  // sample z y x of the first
  int64_t key;        // of x = 0
  int64_t begin;      // items
  int64_t end;
};

// Calls visit(row) for the rows of the sorted items [begin, end).
template <typename Visit>
void visit_rows(const int64_t* shape, const Keyed* items, int64_t begin, int64_t end, const Visit& visit) {
  while (begin < end) {
    Row row;
    cell_coords(shape, items[begin].key, row.coords);
    row.key = items[begin].key - row.coords[3];
    row.begin = begin;
    while (begin < end && items[begin].key < row.key + shape[2]) ++begin;
    row.end = begin;
    visit(row);
  }
}

struct SortedVoxels {
  std::unique_ptr<Keyed[]> items;  // key of the cell, number of the voxel
  int64_t bad_voxel;               // as in FoundPairs
};

// Sorts voxels by their cells, and puts `padding` items with a key above all others behind them.
SortedVoxels sort_voxels(const Executor& executor, const int64_t* shape, const SparseVoxels& voxels, int64_t padding);

struct PairSearch {
  SparseGeometry geometry;
  std::vector<Meetings> by_output;               // point into the lists below, as the next do
  std::vector<Meetings> by_input;                // strided
  std::vector<std::vector<Meeting>> neighbours;  // submanifold: chunks of voxels
  std::unique_ptr<Meeting[]> inputs_of;          // strided: of output after output
  std::unique_ptr<Meeting[]> outputs_of;         // strided: of input after input
  std::vector<Keyed> outputs;                    // strided: key of the cell, number of the output; rising
};

}  // namespace perception
