#include "ops/voxelize.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "cpu/large_pages.h"
#include "include/vectorize.h"

namespace perception {
namespace {

constexpr int64_t kPointsPerTask = 4096;
constexpr int64_t kVoxelsPerTask = 1024;
constexpr int64_t kBlock = 64;           // points whose keys are found together
constexpr int64_t kPrefetchAhead = 16;   // points; hides the memory latency of the hash table
constexpr int64_t kWholeCopyBytes = 16;  // points of at least so many bytes are copied as whole registers

// Keys of points [begin, end).
template <typename T>
PERCEPTION_MULTIVERSION void find_keys(const VoxelizeInput<T>& input, int64_t begin, int64_t end, int64_t* keys) {
  T x[kBlock], y[kBlock], z[kBlock];
  const VoxelGrid<T> grid = input.grid;
  for (int64_t from = begin; from < end; from += kBlock) {
    const int64_t count = std::min(kBlock, end - from);
    for (int64_t i = 0; i < count; ++i) {
      const T* const point = input.points + (from + i) * input.columns;
      x[i] = point[0];
      y[i] = point[1];
      z[i] = point[2];
    }
    for (int64_t i = 0; i < count; ++i) {
      keys[from + i] = voxel_key(grid, x[i], y[i], z[i], input.batch_index[from + i]);
    }
  }
}

// A place in the hash table, of 32-bit numbers where all fit, as half the memory is twice the cache. All bits are set
// in a free one, which makes its number larger than any other.
template <typename Word>
struct Slot {
  static constexpr Word kLeftOut = static_cast<Word>(-1) / 2;
  Word key;
  Word voxel;

  // Not 0 where another key is in this place. Arithmetic, as compilers make two branches of two comparisons.
  Word differs(Word wanted) const { return (key ^ wanted) & ((voxel >> (8 * sizeof(Word) - 1)) - 1); }
};

// Numbers voxels in the order of their first points: keys in `point2voxel` become numbers, and `keys` receives the
// voxels' own. One thread, as each number depends on all points before. Whether a point is the first of its voxel
// cannot be predicted, so that is no branch. Points outside share the key -1, which is left out.
template <typename T, typename Word>
int64_t number_voxels(const VoxelizeInput<T>& input, int64_t* point2voxel, int64_t* keys, Slot<Word>* table) {
  const int64_t num_points = input.num_points, capacity = table_capacity(num_points);
  Word num_voxels = 0, most = 0;
  int64_t sample = -1;
  for (int64_t i = 0; i < num_points; ++i) {
    const int64_t ahead = std::min(i + kPrefetchAhead, num_points - 1);
    __builtin_prefetch(table + first_slot(point2voxel[ahead], capacity), 1);
    if (input.batch_index[i] != sample) {
      sample = input.batch_index[i];
      const int64_t limit = input.max_voxels < 0 ? num_points : std::min(input.max_voxels, num_points);
      most = num_voxels + static_cast<Word>(limit);
    }
    const int64_t key = point2voxel[i];
    int64_t at = first_slot(key, capacity);
    while (__builtin_expect(table[at].differs(static_cast<Word>(key)) != 0, 0)) at = (at + 1) & (capacity - 1);
    const Word next = num_voxels < most ? num_voxels : Slot<Word>::kLeftOut;
    const Word found = std::min(table[at].voxel, next);
    const Word voxel = key < 0 ? Slot<Word>::kLeftOut : found;
    table[at] = {static_cast<Word>(key), voxel};
    keys[num_voxels] = key;
    num_voxels += voxel == num_voxels ? 1 : 0;
    point2voxel[i] = voxel == Slot<Word>::kLeftOut ? -1 : static_cast<int64_t>(voxel);
  }
  return static_cast<int64_t>(num_voxels);
}

template <typename Word, typename T>
int64_t clear_and_number(const Executor& executor, const VoxelizeInput<T>& input, int64_t* point2voxel, int64_t* keys,
                         void* workspace) {
  Slot<Word>* const table = static_cast<Slot<Word>*>(workspace);
  executor.parallel_for(table_capacity(input.num_points), kPointsPerTask, [=](int64_t begin, int64_t end) {
    std::memset(static_cast<void*>(table + begin), 0xFF, static_cast<size_t>(end - begin) * sizeof(Slot<Word>));
  });
  return number_voxels(input, point2voxel, keys, table);
}

// Whether keys and points can be numbered with 31 bits.
template <typename T>
bool fits_half_words(const VoxelizeInput<T>& input) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  const int64_t samples = input.batch_index[input.num_points - 1] + 1;
  const VoxelGrid<T>& grid = input.grid;
  return input.num_points < kMost && samples <= kMost / grid.count[0] / grid.count[1] / grid.count[2];
}

template <typename T>
PERCEPTION_INLINE void copy_point(const T* point, int64_t columns, T* out) {
  constexpr int64_t kWhole = kWholeCopyBytes / static_cast<int64_t>(sizeof(T));
  if (columns < kWhole) {
    for (int64_t c = 0; c < columns; ++c) out[c] = point[c];
    return;
  }
  for (int64_t c = 0; c + kWhole < columns; c += kWhole) std::memcpy(out + c, point + c, kWholeCopyBytes);
  std::memcpy(out + columns - kWhole, point + columns - kWhole, kWholeCopyBytes);  // may overlap the one before
}

}  // namespace

template <typename T>
int64_t assign_voxels_workspace(const VoxelizeInput<T>& input) {
  if (input.num_points == 0) return 0;
  const size_t slot_bytes = fits_half_words(input) ? sizeof(Slot<uint32_t>) : sizeof(Slot<uint64_t>);
  return table_capacity(input.num_points) * static_cast<int64_t>(slot_bytes);
}

template <typename T>
int64_t assign_voxels(const Executor& executor, const VoxelizeInput<T>& input, int64_t* point2voxel, int64_t* keys,
                      void* workspace) {
  if (input.num_points == 0) return 0;
  executor.parallel_for(input.num_points, kPointsPerTask,
                        [&](int64_t begin, int64_t end) { find_keys(input, begin, end, point2voxel); });
  return fits_half_words(input) ? clear_and_number<uint32_t>(executor, input, point2voxel, keys, workspace)
                                : clear_and_number<uint64_t>(executor, input, point2voxel, keys, workspace);
}

template <typename T>
void locate_voxels(const Executor& executor, const VoxelGrid<T>& grid, const int64_t* keys, int64_t num_voxels,
                   int64_t* coords) {
  executor.parallel_for(num_voxels, kVoxelsPerTask, [=](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) voxel_coords(grid.count, keys[v], coords + 4 * v);
  });
}

int64_t gather_voxels_workspace(GatherSizes) { return 0; }

// Each task looks at all points and takes those of its own voxels, so that each voxel meets its points in their order.
template <typename T>
void gather_voxels(const Executor& executor, GatherSizes sizes, const T* points, const int64_t* point2voxel, T* voxels,
                   int64_t* counts, void*) {
  const int64_t block = sizes.max_points * sizes.columns;
  ask_large_pages(voxels, sizes.num_voxels * block * static_cast<int64_t>(sizeof(T)));
  executor.parallel_for(sizes.num_voxels, kVoxelsPerTask, [=](int64_t begin, int64_t end) {
    std::fill(counts + begin, counts + end, int64_t{0});
    std::fill(voxels + begin * block, voxels + end * block, T(0));
    for (int64_t i = 0; i < sizes.num_points; ++i) {
      const int64_t voxel = point2voxel[i];
      if (voxel < begin || voxel >= end || counts[voxel] == sizes.max_points) continue;
      T* const out = voxels + voxel * block + counts[voxel]++ * sizes.columns;
      copy_point(points + i * sizes.columns, sizes.columns, out);
    }
  });
}

#define INSTANTIATE(T)                                                                                     \
  template int64_t assign_voxels_workspace<T>(const VoxelizeInput<T>&);                                    \
  template int64_t assign_voxels<T>(const Executor&, const VoxelizeInput<T>&, int64_t*, int64_t*, void*);  \
  template void locate_voxels<T>(const Executor&, const VoxelGrid<T>&, const int64_t*, int64_t, int64_t*); \
  template void gather_voxels<T>(const Executor&, GatherSizes, const T*, const int64_t*, T*, int64_t*, void*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
