#include "ops/raycast_voxels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "include/vectorize.h"

namespace perception {
namespace {

constexpr int64_t kRaysPerTask = 512;
constexpr int64_t kRowsPerTask = 256;
constexpr int kLanes = 32;   // rays on their way at the same time: one bit each in a word
constexpr int kQueue = 128;  // rays that are made ready together
constexpr int kSteps = 8;    // steps before lanes whose rays have ended get new ones

// The grid as one bit per cell, so that usual sizes stay in the cache, with occupied cells all around it, so that every
// ray ends at one. Rows and layers take up powers of two: a cell's number is (z + 1, y, x) in fields of bits. What lies
// before a row or layer is the end of the one before it, which is border.
struct Bits {
  uint32_t* words;
  int64_t count[3];  // x y z
  int row_bits;      // a row has 2^row_bits cells, at least one of them border
  int layer_bits;    // and a layer 2^layer_bits rows

  Bits(void* base, const int64_t* counts) : words(static_cast<uint32_t*>(base)), row_bits(5), layer_bits(0) {
    std::copy(counts, counts + 3, count);
    while (int64_t{1} << row_bits <= count[0]) ++row_bits;
    while (int64_t{1} << layer_bits <= count[1]) ++layer_bits;
  }

  int64_t num_words() const { return (count[2] + 2) << (row_bits + layer_bits - 5); }
  int64_t first_cell() const { return int64_t{1} << (row_bits + layer_bits); }

  int64_t first_of_row(int64_t row) const {
    return (((row / count[1] + 1) << layer_bits) + row % count[1]) << row_bits;
  }

  // The cell's number in the grid itself, x fastest.
  int64_t place(int32_t cell) const {
    const int64_t x = cell & ((1 << row_bits) - 1), y = cell >> row_bits & ((1 << layer_bits) - 1);
    const int64_t z = (cell >> (row_bits + layer_bits)) - 1;
    return (z * count[1] + y) * count[0] + x;
  }

  bool is_border(int32_t cell) const {
    const int64_t x = cell & ((1 << row_bits) - 1), y = cell >> row_bits & ((1 << layer_bits) - 1);
    const int64_t z = (cell >> (row_bits + layer_bits)) - 1;
    return x >= count[0] || y >= count[1] || z < 0 || z >= count[2];
  }
};

// Eight truth values to eight bits.
uint32_t pack_eight(const bool* values) {
  uint64_t bytes;
  std::memcpy(&bytes, values, sizeof(bytes));
  return static_cast<uint32_t>((bytes & 0x0101010101010101ull) * 0x0102040810204080ull >> 56);
}

void pack_row(const bool* occupied, int64_t count, uint32_t* words) {
  int64_t x = 0;
  for (; x + 32 <= count; x += 32, ++words) {
    *words = pack_eight(occupied + x) | pack_eight(occupied + x + 8) << 8 | pack_eight(occupied + x + 16) << 16 |
             pack_eight(occupied + x + 24) << 24;
  }
  for (; x < count; ++x) {
    if (!occupied[x]) *words &= ~(uint32_t{1} << (x & 31));
  }
}

void pack(const Executor& executor, const bool* occupied, const Bits& bits) {
  std::fill_n(bits.words, bits.num_words(), ~uint32_t{0});
  executor.parallel_for(bits.count[1] * bits.count[2], kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      pack_row(occupied + row * bits.count[0], bits.count[0], bits.words + bits.first_of_row(row) / 32);
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

PERCEPTION_INLINE void look(const uint32_t* words, const int32_t* cells, int32_t* is_free) {
  for (int i = 0; i < kLanes; ++i) is_free[i] = ~(words[cells[i] >> 5] >> (cells[i] & 31)) & 1;
}

// Rays whose cell is free go on to the next cell, or to the border where that is beyond their range.
template <typename T>
PERCEPTION_INLINE void advance(const int32_t* is_free, T max_range, Lanes<T>* lanes) {
  for (int i = 0; i < kLanes; ++i) {
    const T x = lanes->first[0][i] + lanes->taken[0][i] * lanes->period[0][i];
    const T y = lanes->first[1][i] + lanes->taken[1][i] * lanes->period[1][i];
    const T z = lanes->first[2][i] + lanes->taken[2][i] * lanes->period[2][i];
    const T yz = z < y ? z : y;
    const T next = yz < x ? yz : x;
    const int32_t by_x = x <= yz ? is_free[i] : 0;
    const int32_t by_y = (y <= z ? is_free[i] : 0) & ~by_x;
    const int32_t by_z = is_free[i] & ~(by_x | by_y);
    lanes->taken[0][i] += static_cast<T>(by_x);
    lanes->taken[1][i] += static_cast<T>(by_y);
    lanes->taken[2][i] += static_cast<T>(by_z);
    const int32_t step = (lanes->step[0][i] & -by_x) | (lanes->step[1][i] & -by_y) | (lanes->step[2][i] & -by_z);
    const int32_t beyond = next > max_range ? is_free[i] : 0;
    lanes->cell[i] = (lanes->cell[i] + step) & (beyond - 1);
    lanes->distance[i] = is_free[i] != 0 ? next : lanes->distance[i];
  }
}

// One bit per lane whose ray has ended.
PERCEPTION_INLINE uint32_t ended_lanes(const uint32_t* words, const int32_t* cells) {
  int32_t is_free[kLanes];
  look(words, cells, is_free);
  uint32_t ended = 0;
  for (int i = 0; i < kLanes; ++i) ended |= static_cast<uint32_t>(1 - is_free[i]) << i;
  return ended;
}

template <typename T>
PERCEPTION_MULTIVERSION uint32_t take_steps(const uint32_t* words, T max_range, Lanes<T>* lanes) {
  int32_t now[kLanes];  // nothing else points to it, so that the loops vectorise
  for (int step = 0; step < kSteps; ++step) {
    look(words, lanes->cell, now);
    advance(now, max_range, lanes);
  }
  return ended_lanes(words, lanes->cell);
}

// The same, noting the cells on the way in `seen`, which has a place for each, border and all; several threads may note
// the same cell.
template <typename T>
PERCEPTION_MULTIVERSION uint32_t take_noted_steps(const uint32_t* words, T max_range, Lanes<T>* lanes, bool* seen) {
  int32_t now[kLanes];
  for (int step = 0; step < kSteps; ++step) {
    look(words, lanes->cell, now);
    for (int i = 0; i < kLanes; ++i) __atomic_store_n(seen + lanes->cell[i], true, __ATOMIC_RELAXED);
    advance(now, max_range, lanes);
  }
  for (int i = 0; i < kLanes; ++i) __atomic_store_n(seen + lanes->cell[i], true, __ATOMIC_RELAXED);
  return ended_lanes(words, lanes->cell);
}

template <typename T>
struct Results {
  int64_t* cells;
  T* distances;
  bool* seen;  // null: not asked for

  void write(const Bits& bits, int64_t ray, int32_t cell, T distance) const {
    const bool hits = !bits.is_border(cell);
    cells[ray] = hits ? bits.place(cell) : -1;
    distances[ray] = hits ? distance : static_cast<T>(HUGE_VALF);
  }
};

template <typename T>
void cast_rays(const RaycastInput<T>& input, const Bits& bits, int64_t begin, int64_t end, const Results<T>& results) {
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
        results.write(bits, ray_of[lane], lanes.cell[lane], lanes.distance[lane]);
        ray_of[lane] = -1;
        ++done;
      }
      if (next == end) continue;
      if (next == queued) {
        const int64_t count = std::min<int64_t>(kQueue, end - next);
        start_rays(input.grid, static_cast<int32_t>(bits.first_cell()), input.origins + 3 * next,
                   input.directions + 3 * next, count, &queue);
        queued = next + count;
      }
      load_lane(queue, (next - begin) % kQueue, lane, &lanes);
      ray_of[lane] = next++;
    }
    ended = results.seen == nullptr ? take_steps(bits.words, input.grid.max_range, &lanes)
                                    : take_noted_steps(bits.words, input.grid.max_range, &lanes, results.seen);
  }
}

}  // namespace

int64_t raycast_workspace(const int64_t* count, bool mark) {
  const int64_t num_words = Bits(nullptr, count).num_words();
  return num_words * static_cast<int64_t>(sizeof(uint32_t)) + (mark ? num_words * 32 : 0);
}

template <typename T>
void raycast_voxels(const Executor& executor, const RaycastInput<T>& input, int64_t* cells, T* distances, bool* reached,
                    void* workspace) {
  const Bits bits(workspace, input.grid.count);
  pack(executor, input.occupied, bits);
  bool* const seen = reached == nullptr ? nullptr : reinterpret_cast<bool*>(bits.words + bits.num_words());
  if (seen != nullptr) std::fill_n(seen, bits.num_words() * 32, false);
  RaycastInput<T> padded = input;
  padded.grid.stride[0] = 1;
  padded.grid.stride[1] = 1 << bits.row_bits;
  padded.grid.stride[2] = 1 << (bits.row_bits + bits.layer_bits);
  executor.parallel_for(input.num_rays, kRaysPerTask, [&](int64_t begin, int64_t end) {
    cast_rays(padded, bits, begin, end, Results<T>{cells, distances, seen});
  });
  if (seen == nullptr) return;
  executor.parallel_for(bits.count[1] * bits.count[2], kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      std::copy_n(seen + bits.first_of_row(row), bits.count[0], reached + row * bits.count[0]);
    }
  });
}

#define INSTANTIATE(T) \
  template void raycast_voxels<T>(const Executor&, const RaycastInput<T>&, int64_t*, T*, bool*, void*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
