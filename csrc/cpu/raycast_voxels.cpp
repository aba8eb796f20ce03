#include "ops/raycast_voxels.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "include/exact_quotient.h"
#include "include/vectorize.h"

namespace perception {
namespace {

constexpr int64_t kRaysPerTask = 512;
constexpr int64_t kRowsPerTask = 256;
constexpr int64_t kMostMasks = 16;
constexpr int64_t kMostMaskBytes = int64_t{1} << 28;
constexpr int kHalf = 16;
constexpr int kLanes = 2 * kHalf;  // rays on their way at the same time: one bit each in a word
constexpr int kQueue = 128;        // rays that are made ready together
constexpr int kSteps = 8;          // steps before lanes whose rays have ended get new ones

// The grid with occupied cells all around it, so that every ray ends at one. What lies before a row or layer is the end
// of the one before it, which is border.
struct PaddedGrid {
  int64_t count[3];  // x y z, without the border
  int64_t row;       // cells of a row
  int64_t rows;      // rows of a layer

  explicit PaddedGrid(const int64_t* counts) : row(counts[0] + 1), rows(counts[1] + 1) {
    std::copy(counts, counts + 3, count);
  }

  int64_t layer() const { return row * rows; }
  int64_t num_rows() const { return rows * (count[2] + 2); }
  int64_t num_cells() const { return row * num_rows(); }

  // Number of a row of the padded grid in the grid itself, -1 for border.
  int64_t inner_row(int64_t number) const {
    const int64_t layer = exact_quotient(number, rows), y = number - layer * rows;
    return y < count[1] && layer > 0 && layer <= count[2] ? (layer - 1) * count[1] + y : -1;
  }

  // The cell's number in the grid itself, x fastest; -1 for border.
  PERCEPTION_INLINE int64_t inner_cell(int64_t cell) const {
    const int64_t number = exact_quotient(cell, row), x = cell - number * row;
    const int64_t layer = exact_quotient(number, rows), y = number - layer * rows;
    const int64_t inner = ((layer - 1) * count[1] + y) * count[0] + x;
    const int64_t is_inner =
        (x < count[0] ? 1 : 0) & (y < count[1] ? 1 : 0) & (layer > 0 ? 1 : 0) & (layer <= count[2] ? 1 : 0);
    return is_inner != 0 ? inner : -1;
  }
};

void pad(const Executor& executor, const bool* occupied, const PaddedGrid& grid, bool* padded) {
  executor.parallel_for(grid.num_rows(), kRowsPerTask, [=](int64_t begin, int64_t end) {
    for (int64_t number = begin; number < end; ++number) {
      const int64_t inner = grid.inner_row(number), inside = inner < 0 ? 0 : grid.count[0];
      bool* const row = padded + number * grid.row;
      std::copy_n(occupied + inner * inside, inside, row);
      std::fill(row + inside, row + grid.row, true);
    }
  });
}

// Rays side by side: on their way, or about to start. A ray has ended when its cell is occupied; cell 0 is border.
template <typename T, int kCount>
struct Rays {
  T first[3][kCount];
  T period[3][kCount];
  T taken[3][kCount];
  int32_t step[3][kCount];
  int32_t cell[kCount];
  T distance[kCount];  // metres to the cell
};

template <typename T>
using Lanes = Rays<T, kLanes>;
template <typename T>
using Queue = Rays<T, kQueue>;

template <typename T>
PERCEPTION_MULTIVERSION void start_rays(const RayGrid<T>& grid, int32_t first_cell, const T* origins,
                                        const T* directions, int64_t count, Queue<T>* queue) {
  for (int64_t i = 0; i < count; ++i) {
    const Ray<T> ray = start_ray(grid, origins + 3 * i, directions + 3 * i);
    for (int axis = 0; axis < 3; ++axis) {
      queue->first[axis][i] = ray.first[axis];
      queue->period[axis][i] = ray.period[axis];
      queue->step[axis][i] = ray.step[axis];
    }
    queue->cell[i] = ray.cell < 0 ? 0 : first_cell + ray.cell;
    queue->distance[i] = ray.entry;
  }
}

template <typename T>
void load_lane(const Queue<T>& queue, int64_t from, int lane, Lanes<T>* lanes) {
  for (int axis = 0; axis < 3; ++axis) {
    lanes->first[axis][lane] = queue.first[axis][from];
    lanes->period[axis][lane] = queue.period[axis][from];
    lanes->taken[axis][lane] = T(0);
    lanes->step[axis][lane] = queue.step[axis][from];
  }
  lanes->cell[lane] = queue.cell[from];
  lanes->distance[lane] = queue.distance[from];
}

// One bit per lane whose cell is occupied. With kNote, the cells are noted in `seen`.
template <bool kNote>
PERCEPTION_INLINE uint32_t look(const bool* occupied, int32_t* cells, bool* seen) {
  // Cells are loaded one by one: a gather takes longer, and so does taking them out of vectors, as compilers would.
  __asm__("" : "+m"(*reinterpret_cast<int32_t (*)[kLanes]>(cells)));
  uint32_t low = 0, high = 0;
#pragma GCC unroll 16
  for (int i = kHalf - 1; i >= 0; --i) {
    const int64_t cell = cells[i];
    low = 2 * low + static_cast<uint32_t>(occupied[cell]);
    if (kNote) seen[cell] = true;
  }
#pragma GCC unroll 16
  for (int i = kLanes - 1; i >= kHalf; --i) {
    const int64_t cell = cells[i];
    high = 2 * high + static_cast<uint32_t>(occupied[cell]);
    if (kNote) seen[cell] = true;
  }
  return low | high << kHalf;
}

// Rays whose cell is free go on to the next cell, or to the border where that is beyond their range.
template <typename T>
PERCEPTION_INLINE void advance(uint32_t ended, T max_range, Lanes<T>* lanes) {
  for (int i = 0; i < kLanes; ++i) {
    const T x = lanes->first[0][i] + lanes->taken[0][i] * lanes->period[0][i];
    const T y = lanes->first[1][i] + lanes->taken[1][i] * lanes->period[1][i];
    const T z = lanes->first[2][i] + lanes->taken[2][i] * lanes->period[2][i];
    const T yz = z < y ? z : y;
    const T next = yz < x ? yz : x;
    const int32_t step_yz = y <= z ? lanes->step[1][i] : lanes->step[2][i];
    const int32_t step = x <= yz ? lanes->step[0][i] : step_yz;
    const T taken_y = y <= z ? T(1) : T(0), taken_z = y <= z ? T(0) : T(1);
    lanes->taken[0][i] += x <= yz ? T(1) : T(0);
    lanes->taken[1][i] += x <= yz ? T(0) : taken_y;
    lanes->taken[2][i] += x <= yz ? T(0) : taken_z;
    const int32_t moved = next > max_range ? 0 : lanes->cell[i] + step;
    const uint32_t stays = ended >> i & 1;
    lanes->cell[i] = stays != 0 ? lanes->cell[i] : moved;
    lanes->distance[i] = stays != 0 ? lanes->distance[i] : next;
  }
}

// Takes kSteps steps with each ray and gives one bit per lane whose ray has ended.
template <typename T, bool kNote>
PERCEPTION_MULTIVERSION uint32_t take_steps(const bool* occupied, T max_range, Lanes<T>* lanes, bool* seen) {
  for (int step = 0; step < kSteps; ++step) advance(look<kNote>(occupied, lanes->cell, seen), max_range, lanes);
  return look<kNote>(occupied, lanes->cell, seen);
}

template <typename T>
struct Results {
  int64_t* cells;
  T* distances;
};

// Turns cells of the padded grid, where rays ended, into those of the grid itself.
template <typename T>
PERCEPTION_MULTIVERSION void finish(const PaddedGrid& grid, int64_t begin, int64_t end, const Results<T>& results) {
  const PaddedGrid own = grid;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t cell = own.inner_cell(results.cells[i]);
    results.cells[i] = cell;
    results.distances[i] = cell >= 0 ? results.distances[i] : static_cast<T>(HUGE_VALF);
  }
}

// Casts rays [begin, end) of `input`, whose grid is the padded one; `seen` may be null.
template <typename T>
void cast_rays(const RaycastInput<T>& input, const PaddedGrid& grid, int64_t begin, int64_t end,
               const Results<T>& results, bool* seen) {
  Lanes<T> lanes{};
  Queue<T> queue;
  int64_t ray_of[kLanes];  // -1: none
  std::fill_n(ray_of, kLanes, int64_t{-1});
  uint32_t ended = ~uint32_t{0};
  int64_t next = begin, queued = begin;
  for (int64_t done = begin; done < end;) {
    for (; ended != 0; ended &= ended - 1) {
      const int lane = __builtin_ctz(ended);
      if (ray_of[lane] >= 0) {
        results.cells[ray_of[lane]] = lanes.cell[lane];
        results.distances[ray_of[lane]] = lanes.distance[lane];
        ray_of[lane] = -1;
        ++done;
      }
      if (next == end) continue;
      if (next == queued) {
        const int64_t count = std::min<int64_t>(kQueue, end - next);
        start_rays(input.grid, static_cast<int32_t>(grid.layer()), input.origins + 3 * next,
                   input.directions + 3 * next, count, &queue);
        queued = next + count;
      }
      load_lane(queue, (next - begin) % kQueue, lane, &lanes);
      ray_of[lane] = next++;
    }
    ended = seen == nullptr ? take_steps<T, false>(input.occupied, input.grid.max_range, &lanes, nullptr)
                            : take_steps<T, true>(input.occupied, input.grid.max_range, &lanes, seen);
  }
  finish(grid, begin, end, results);
}

// Masks of what was seen, one for each range of rays, so that threads do not write to the same memory.
int64_t num_masks(const PaddedGrid& grid) {
  return std::max<int64_t>(1, std::min(kMostMasks, kMostMaskBytes / grid.num_cells()));
}

// Marks the cells of the grid itself that one of the masks names.
void unite(const Executor& executor, const PaddedGrid& grid, const bool* masks, int64_t count, bool* reached) {
  executor.parallel_for(grid.num_rows(), kRowsPerTask, [=](int64_t begin, int64_t end) {
    for (int64_t number = begin; number < end; ++number) {
      const int64_t inner = grid.inner_row(number);
      if (inner < 0) continue;
      bool* const row = reached + inner * grid.count[0];
      std::copy_n(masks + number * grid.row, grid.count[0], row);
      for (int64_t mask = 1; mask < count; ++mask) {
        const bool* const other = masks + mask * grid.num_cells() + number * grid.row;
        for (int64_t x = 0; x < grid.count[0]; ++x) row[x] |= other[x];
      }
    }
  });
}

}  // namespace

int64_t raycast_workspace(const int64_t* count, bool mark) {
  const PaddedGrid grid(count);
  return grid.num_cells() * (1 + (mark ? num_masks(grid) : 0));
}

template <typename T>
void raycast_voxels(const Executor& executor, const RaycastInput<T>& input, int64_t* cells, T* distances, bool* reached,
                    void* workspace) {
  const PaddedGrid grid(input.grid.count);
  bool* const occupied = static_cast<bool*>(workspace);
  bool* const masks = occupied + grid.num_cells();
  pad(executor, input.occupied, grid, occupied);
  RaycastInput<T> padded = input;
  padded.occupied = occupied;
  padded.grid.stride[0] = 1;
  padded.grid.stride[1] = static_cast<int32_t>(grid.row);
  padded.grid.stride[2] = static_cast<int32_t>(grid.layer());
  const Results<T> results{cells, distances};
  if (reached == nullptr) {
    executor.parallel_for(input.num_rays, kRaysPerTask,
                          [&](int64_t begin, int64_t end) { cast_rays(padded, grid, begin, end, results, nullptr); });
    return;
  }
  const int64_t share = (input.num_rays + num_masks(grid) - 1) / num_masks(grid);
  std::atomic<int64_t> used{0};
  executor.parallel_for(input.num_rays, std::max(kRaysPerTask, share), [&](int64_t begin, int64_t end) {
    bool* const seen = masks + used.fetch_add(1) * grid.num_cells();
    std::fill_n(seen, grid.num_cells(), false);
    cast_rays(padded, grid, begin, end, results, seen);
  });
  if (used == 0) std::fill_n(masks, grid.num_cells(), false);
  unite(executor, grid, masks, std::max<int64_t>(1, used), reached);
}

#define INSTANTIATE(T) \
  template void raycast_voxels<T>(const Executor&, const RaycastInput<T>&, int64_t*, T*, bool*, void*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
