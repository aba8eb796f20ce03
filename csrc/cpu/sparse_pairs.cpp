#include "ops/sparse_pairs.h"

#include <algorithm>
#include <vector>

#include "include/vectorize.h"

namespace perception {
namespace {

constexpr int64_t kVoxelsPerTask = 1024;
constexpr int64_t kStretch = 256;        // voxels whose pairs are listed together
constexpr int64_t kMeetingsAtOnce = 64;  // looked up together, so that they wait for memory together

struct Slot {
  int64_t key = -1;  // free
  int64_t voxel = -1;
};

// Open addressing; grows where it is asked to.
class VoxelTable {
 public:
  explicit VoxelTable(int64_t num_keys) : slots_(static_cast<size_t>(slots_for(num_keys))) {}

  // Gives the voxel that has the key, or -1.
  int64_t find(int64_t key) const { return slots_[place(key)].voxel; }

  void prefetch(int64_t key) const { __builtin_prefetch(&slots_[static_cast<size_t>(home_slot(key, size()))]); }

  // Gives the voxel that has the key, after it got `voxel` where it had none.
  int64_t find_or_insert(int64_t key, int64_t voxel) {
    Slot& slot = slots_[place(key)];
    if (slot.key >= 0) return slot.voxel;
    slot = {key, voxel};
    if (2 * ++used_ > size()) grow();
    return voxel;
  }

 private:
  int64_t size() const { return static_cast<int64_t>(slots_.size()); }

  size_t place(int64_t key) const {
    int64_t at = home_slot(key, size());
    while (slots_[static_cast<size_t>(at)].key >= 0 && slots_[static_cast<size_t>(at)].key != key) {
      at = (at + 1) & (size() - 1);
    }
    return static_cast<size_t>(at);
  }

  void grow() {
    std::vector<Slot> before(2 * slots_.size());
    before.swap(slots_);
    for (const Slot& slot : before) {
      if (slot.key >= 0) slots_[place(slot.key)] = slot;
    }
  }

  std::vector<Slot> slots_;
  int64_t used_ = 0;
};

// Says of most keys that are not there that they are not, from memory so small that it stays in the cache.
class KeyFilter {
 public:
  explicit KeyFilter(int64_t num_keys) : words_(static_cast<size_t>(slots_for(num_keys) / 8)) {}

  void add(int64_t key) { words_[word(key)] |= bit(key); }
  bool may_have(int64_t key) const { return (words_[word(key)] & bit(key)) != 0; }

 private:
  // Cells in a row share a word.
  size_t word(int64_t key) const {
    return (static_cast<uint64_t>(key >> 6) * 0x9E3779B97F4A7C15ull >> 24) & (words_.size() - 1);
  }
  static uint64_t bit(int64_t key) { return uint64_t{1} << (key & 63); }

  std::vector<uint64_t> words_;
};

// Where one voxel meets the outputs along each axis: for each place of the kernel the output's coordinate, or -1.
class AxisMeetings {
 public:
  explicit AxisMeetings(const SparseGeometry& geometry) : geometry_(geometry) {
    for (int axis = 0; axis < 3; ++axis) outputs_[axis].resize(static_cast<size_t>(geometry.kernel[axis]));
  }

  // Calls visit(element of the kernel, output z y x) for the elements below `end` that meet an output.
  template <typename Visit>
  void visit(const int64_t* coords, int64_t end, const Visit& visit) {
    for (int axis = 0; axis < 3; ++axis) find(axis, coords[axis + 1]);
    int64_t offset = 0;
    for (const int64_t z : outputs_[0]) {
      for (const int64_t y : outputs_[1]) {
        for (const int64_t x : outputs_[2]) {
          if (offset == end) return;
          if ((z | y | x) >= 0) visit(offset, z, y, x);
          ++offset;
        }
      }
    }
  }

 private:
  void find(int axis, int64_t coordinate) {
    const int64_t stride = geometry_.stride[axis];
    int64_t shifted = coordinate + geometry_.padding[axis];
    for (int64_t& output : outputs_[axis]) {
      const int64_t quotient = stride == 1 ? shifted : shifted / stride;
      const bool exists = shifted >= 0 && quotient * stride == shifted && quotient < geometry_.out_shape[axis];
      output = exists ? quotient : -1;
      shifted -= geometry_.dilation[axis];
    }
  }

  const SparseGeometry& geometry_;
  std::vector<int64_t> outputs_[3];
};

struct Meeting {
  int64_t voxel;
  int64_t offset;
  int64_t key;
};

struct KnownVoxels {
  VoxelTable table;
  KeyFilter filter;

  explicit KnownVoxels(int64_t count) : table(count), filter(count) {}
};

// Half of a submanifold's elements are the other half seen from the partner.
void meet_neighbours(const SparseGeometry& geometry, const SparseVoxels& voxels, const KnownVoxels& known,
                     int64_t begin, int64_t end, int32_t* table) {
  const int64_t half = geometry.num_offsets() / 2;
  const int64_t* const shape = geometry.in_shape;
  AxisMeetings meetings(geometry);
  std::vector<Meeting> asked;
  for (int64_t voxel = begin; voxel < end; ++voxel) {
    const int64_t* const coords = voxels.coords + 4 * voxel;
    table[half * voxels.count + voxel] = static_cast<int32_t>(voxel);
    meetings.visit(coords, half, [&](int64_t offset, int64_t z, int64_t y, int64_t x) {
      const int64_t key = ((coords[0] * shape[0] + z) * shape[1] + y) * shape[2] + x;
      if (!known.filter.may_have(key)) return;
      known.table.prefetch(key);
      asked.push_back({voxel, offset, key});
    });
    if (static_cast<int64_t>(asked.size()) < kMeetingsAtOnce && voxel + 1 < end) continue;
    for (const Meeting& meeting : asked) {
      const int64_t partner = known.table.find(meeting.key);
      if (partner < 0) continue;
      table[meeting.offset * voxels.count + partner] = static_cast<int32_t>(meeting.voxel);
      table[(2 * half - meeting.offset) * voxels.count + meeting.voxel] = static_cast<int32_t>(partner);
    }
    asked.clear();
  }
}

}  // namespace

int64_t table_workspace(const SparseGeometry&, int64_t, bool) { return 0; }

int64_t submanifold_table(const Executor& executor, const SparseGeometry& geometry, const SparseVoxels& voxels,
                          int32_t* table, void*) {
  KnownVoxels known(voxels.count);
  for (int64_t voxel = 0; voxel < voxels.count; ++voxel) {
    const int64_t key = cell_key(geometry.in_shape, voxels.coords + 4 * voxel);
    if (key < 0 || known.table.find_or_insert(key, voxel) != voxel) return voxel;
    known.filter.add(key);
  }
  std::fill_n(table, geometry.num_offsets() * voxels.count, int32_t{-1});
  executor.parallel_for(voxels.count, kVoxelsPerTask, [&](int64_t begin, int64_t end) {
    meet_neighbours(geometry, voxels, known, begin, end, table);
  });
  return -1;
}

// One thread, as each number depends on all voxels before.
StridedOutputs strided_table(const Executor&, const SparseGeometry& geometry, const SparseVoxels& voxels,
                             int32_t* table, int64_t* coords, void*) {
  const int64_t* const shape = geometry.out_shape;
  VoxelTable known(voxels.count);
  AxisMeetings meetings(geometry);
  std::vector<Meeting> asked;
  std::fill_n(table, geometry.num_offsets() * voxels.count, int32_t{-1});
  int64_t num_outputs = 0;
  for (int64_t voxel = 0; voxel < voxels.count; ++voxel) {
    const int64_t* const input = voxels.coords + 4 * voxel;
    if (cell_key(geometry.in_shape, input) < 0) return {0, voxel};
    meetings.visit(input, geometry.num_offsets(), [&](int64_t offset, int64_t z, int64_t y, int64_t x) {
      const int64_t key = ((input[0] * shape[0] + z) * shape[1] + y) * shape[2] + x;
      known.prefetch(key);
      asked.push_back({voxel, offset, key});
    });
    if (static_cast<int64_t>(asked.size()) < kMeetingsAtOnce && voxel + 1 < voxels.count) continue;
    for (const Meeting& meeting : asked) {
      const int64_t number = known.find_or_insert(meeting.key, num_outputs);
      if (number == num_outputs) cell_coords(shape, meeting.key, coords + 4 * num_outputs++);
      table[meeting.offset * voxels.count + meeting.voxel] = static_cast<int32_t>(number);
    }
    asked.clear();
  }
  return {num_outputs, -1};
}

void invert_table(const Executor& executor, const PairTable& table, int64_t num_partners, int32_t* inverse) {
  executor.parallel_for(table.num_offsets, 1, [&](int64_t begin, int64_t end) {
    std::fill(inverse + begin * num_partners, inverse + end * num_partners, int32_t{-1});
    for (int64_t offset = begin; offset < end; ++offset) {
      const int32_t* const partners = table.partners + offset * table.count;
      for (int64_t voxel = 0; voxel < table.count; ++voxel) {
        if (partners[voxel] >= 0) inverse[offset * num_partners + partners[voxel]] = static_cast<int32_t>(voxel);
      }
    }
  });
}

int64_t pairs_workspace(const PairTable&) { return 0; }

int64_t count_pairs(const Executor& executor, const PairTable& table, int64_t* offsets, void*) {
  offsets[0] = 0;
  executor.parallel_for(table.num_offsets, 1, [&](int64_t begin, int64_t end) {
    for (int64_t offset = begin; offset < end; ++offset) {
      const int32_t* const partners = table.partners + offset * table.count;
      offsets[offset + 1] = std::count_if(partners, partners + table.count, [](int32_t p) { return p >= 0; });
    }
  });
  for (int64_t offset = 0; offset < table.num_offsets; ++offset) offsets[offset + 1] += offsets[offset];
  return offsets[table.num_offsets];
}

void list_pairs(const Executor& executor, const PairTable& table, const int64_t* offsets, const void*, int64_t* sources,
                int64_t* targets) {
  executor.parallel_for(table.num_offsets, 1, [&](int64_t begin, int64_t end) {
    for (int64_t offset = begin; offset < end; ++offset) {
      const int32_t* const partners = table.partners + offset * table.count;
      int64_t pair = offsets[offset];
      for (int64_t first = 0; first < table.count; first += kStretch) {
        const int64_t last = std::min(first + kStretch, table.count);
        int64_t found[2][kStretch];
        int64_t num_found = 0;
        for (int64_t voxel = first; voxel < last; ++voxel) {  // without a branch that nobody could predict
          found[0][num_found] = partners[voxel];
          found[1][num_found] = voxel;
          num_found += partners[voxel] >= 0;
        }
        std::copy_n(found[0], num_found, sources + pair);
        std::copy_n(found[1], num_found, targets + pair);
        pair += num_found;
      }
    }
  });
}

}  // namespace perception
