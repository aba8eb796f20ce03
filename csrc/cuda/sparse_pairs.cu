#include <cub/device/device_scan.cuh>

#include "cuda/launch.cuh"
#include "ops/sparse_pairs.h"

namespace perception {
namespace {

using Word = unsigned long long;  // what 64-bit atomics take
constexpr Word kFree = ~Word{0};

// The table maps a key to the lowest number that came with it. Which slot a key gets depends on timing; that number
// does not. `keys` and `lowest` start with all bits set.
struct KeyTable {
  Word* keys;    // (slots)
  Word* lowest;  // (slots)
  int64_t slots;

  __device__ int64_t insert(int64_t key, int64_t number) const {
    int64_t at = home_slot(key, slots);
    while (true) {
      const Word previous = atomicCAS(keys + at, kFree, static_cast<Word>(key));
      if (previous == kFree || previous == static_cast<Word>(key)) break;
      at = (at + 1) & (slots - 1);
    }
    atomicMin(lowest + at, static_cast<Word>(number));
    return at;
  }

  __device__ int64_t find(int64_t key) const {
    int64_t at = home_slot(key, slots);
    while (keys[at] != kFree && keys[at] != static_cast<Word>(key)) at = (at + 1) & (slots - 1);
    return keys[at] == kFree ? -1 : static_cast<int64_t>(lowest[at]);
  }
};

size_t scan_bytes(int64_t count) {
  size_t bytes = 0;
  check_cuda(cub::DeviceScan::InclusiveSum(nullptr, bytes, static_cast<int64_t*>(nullptr),
                                           static_cast<int64_t*>(nullptr), count),
             "sparse pairs: size of the scan");
  return bytes;
}

struct Buffers {
  KeyTable table;
  int64_t* places;  // (num_meetings): slot of the output that an input meets, -1 for none
  int64_t* found;   // (num_meetings + 1): outputs up to and with meeting i - 1
  char* scan;
  size_t scan_size;
  int64_t total;

  Buffers(void* base, const SparseGeometry& geometry, int64_t num_voxels, bool strided) {
    const int64_t num_meetings = strided ? num_voxels * geometry.num_offsets() : 0;
    scan_size = strided ? scan_bytes(num_meetings + 1) : 0;
    Workspace workspace(base);
    table.slots = slots_for(strided ? most_outputs(geometry, num_voxels) : num_voxels);
    table.keys = workspace.take<Word>(table.slots);
    table.lowest = workspace.take<Word>(table.slots);
    places = workspace.take<int64_t>(num_meetings);
    found = workspace.take<int64_t>(num_meetings + 1);
    scan = workspace.take<char>(static_cast<int64_t>(scan_size));
    total = workspace.bytes();
  }

  void clear(cudaStream_t stream) const {
    const size_t bytes = static_cast<size_t>(table.slots) * sizeof(Word);
    check_cuda(cudaMemsetAsync(table.keys, 0xFF, bytes, stream), "sparse pairs: clear keys");
    check_cuda(cudaMemsetAsync(table.lowest, 0xFF, bytes, stream), "sparse pairs: clear numbers");
  }
};

__global__ void insert_voxels(SparseGeometry geometry, SparseVoxels voxels, KeyTable table) {
  for (int64_t voxel = first_item(); voxel < voxels.count; voxel += item_stride()) {
    const int64_t key = cell_key(geometry.in_shape, voxels.coords + 4 * voxel);
    if (key >= 0) table.insert(key, voxel);
  }
}

// One thread per (element, voxel): the input that the output seen through the opposite element is.
__global__ void find_neighbours(SparseGeometry geometry, SparseVoxels voxels, KeyTable known, int32_t* table) {
  const int64_t num_offsets = geometry.num_offsets();
  for (int64_t item = first_item(); item < num_offsets * voxels.count; item += item_stride()) {
    const int64_t* const coords = voxels.coords + 4 * (item % voxels.count);
    int64_t seen[4];
    const bool exists = cell_key(geometry.in_shape, coords) >= 0 &&
                        output_coords(geometry, coords, num_offsets - 1 - item / voxels.count, seen);
    table[item] = exists ? static_cast<int32_t>(known.find(cell_key(geometry.in_shape, seen))) : -1;
  }
}

// One thread per meeting: number voxel * num_offsets + element, so that outputs are numbered as the CPU numbers them.
__global__ void insert_outputs(SparseGeometry geometry, SparseVoxels voxels, KeyTable table, int64_t* places) {
  const int64_t num_offsets = geometry.num_offsets();
  for (int64_t meeting = first_item(); meeting < num_offsets * voxels.count; meeting += item_stride()) {
    const int64_t* const coords = voxels.coords + 4 * (meeting / num_offsets);
    int64_t output[4];
    const bool exists =
        cell_key(geometry.in_shape, coords) >= 0 && output_coords(geometry, coords, meeting % num_offsets, output);
    places[meeting] = exists ? table.insert(cell_key(geometry.out_shape, output), meeting) : -1;
  }
}

// found[i + 1] = 1 where meeting i is the first of its output; summed up afterwards.
__global__ void mark_first(int64_t num_meetings, const int64_t* places, const Word* lowest, int64_t* found) {
  for (int64_t i = first_item(); i <= num_meetings; i += item_stride()) {
    found[i] = i > 0 && places[i - 1] >= 0 && lowest[places[i - 1]] == static_cast<Word>(i - 1);
  }
}

__global__ void number_outputs(SparseGeometry geometry, int64_t num_voxels, KeyTable known, const int64_t* places,
                               const int64_t* found, int32_t* table, int64_t* coords) {
  const int64_t num_offsets = geometry.num_offsets();
  for (int64_t meeting = first_item(); meeting < num_offsets * num_voxels; meeting += item_stride()) {
    const int64_t place = places[meeting];
    const int64_t first = place < 0 ? -1 : static_cast<int64_t>(known.lowest[place]);
    const int64_t number = place < 0 ? -1 : found[first];
    if (first == meeting) {
      cell_coords(geometry.out_shape, static_cast<int64_t>(known.keys[place]), coords + 4 * number);
    }
    table[meeting % num_offsets * num_voxels + meeting / num_offsets] = static_cast<int32_t>(number);
  }
}

__global__ void invert(PairTable table, int64_t num_partners, int32_t* inverse) {
  for (int64_t item = first_item(); item < table.num_offsets * table.count; item += item_stride()) {
    const int32_t partner = table.partners[item];
    if (partner >= 0) {
      inverse[item / table.count * num_partners + partner] = static_cast<int32_t>(item % table.count);
    }
  }
}

// places[i + 1] = 1 where entry i is a pair; summed up afterwards.
__global__ void mark_pairs(PairTable table, int64_t* places) {
  for (int64_t i = first_item(); i <= table.num_offsets * table.count; i += item_stride()) {
    places[i] = i > 0 && table.partners[i - 1] >= 0;
  }
}

__global__ void take_offsets(PairTable table, const int64_t* places, int64_t* offsets) {
  for (int64_t offset = first_item(); offset <= table.num_offsets; offset += item_stride()) {
    offsets[offset] = places[offset * table.count];
  }
}

__global__ void write_pairs(PairTable table, const int64_t* places, int64_t* sources, int64_t* targets) {
  for (int64_t item = first_item(); item < table.num_offsets * table.count; item += item_stride()) {
    const int32_t partner = table.partners[item];
    if (partner < 0) continue;
    sources[places[item]] = partner;
    targets[places[item]] = item % table.count;
  }
}

int64_t read_number(const int64_t* number, cudaStream_t stream) {
  int64_t value = 0;
  check_cuda(cudaMemcpyAsync(&value, number, sizeof(value), cudaMemcpyDeviceToHost, stream), "sparse pairs: count");
  check_cuda(cudaStreamSynchronize(stream), "sparse pairs");
  return value;
}

}  // namespace

int64_t table_workspace(const SparseGeometry& geometry, int64_t num_voxels, bool strided) {
  return num_voxels == 0 ? 0 : Buffers(nullptr, geometry, num_voxels, strided).total;
}

int64_t submanifold_table(const Executor& executor, const SparseGeometry& geometry, const SparseVoxels& voxels,
                          int32_t* table, void* workspace) {
  if (voxels.count == 0) return -1;
  const cudaStream_t stream = stream_of(executor);
  const Buffers b(workspace, geometry, voxels.count, false);
  b.clear(stream);
  insert_voxels<<<blocks_for(voxels.count), kThreads, 0, stream>>>(geometry, voxels, b.table);
  const int64_t items = voxels.count * geometry.num_offsets();
  find_neighbours<<<blocks_for(items), kThreads, 0, stream>>>(geometry, voxels, b.table, table);
  check_cuda(cudaGetLastError(), "submanifold_pairs");
  return -1;
}

StridedOutputs strided_table(const Executor& executor, const SparseGeometry& geometry, const SparseVoxels& voxels,
                             int32_t* table, int64_t* coords, void* workspace) {
  if (voxels.count == 0) return {0, -1};
  const cudaStream_t stream = stream_of(executor);
  Buffers b(workspace, geometry, voxels.count, true);
  b.clear(stream);
  const int64_t items = voxels.count * geometry.num_offsets();
  insert_outputs<<<blocks_for(items), kThreads, 0, stream>>>(geometry, voxels, b.table, b.places);
  mark_first<<<blocks_for(items + 1), kThreads, 0, stream>>>(items, b.places, b.table.lowest, b.found);
  check_cuda(cudaGetLastError(), "strided_pairs: outputs");
  check_cuda(cub::DeviceScan::InclusiveSum(b.scan, b.scan_size, b.found, b.found, items + 1, stream),
             "strided_pairs: scan");
  number_outputs<<<blocks_for(items), kThreads, 0, stream>>>(geometry, voxels.count, b.table, b.places, b.found, table,
                                                             coords);
  check_cuda(cudaGetLastError(), "strided_pairs: numbers");
  return {read_number(b.found + items, stream), -1};
}

void invert_table(const Executor& executor, const PairTable& table, int64_t num_partners, int32_t* inverse) {
  const cudaStream_t stream = stream_of(executor);
  const size_t bytes = static_cast<size_t>(table.num_offsets * num_partners) * sizeof(int32_t);
  if (bytes > 0) check_cuda(cudaMemsetAsync(inverse, 0xFF, bytes, stream), "strided_pairs: clear");
  const int64_t items = table.num_offsets * table.count;
  if (items == 0) return;
  invert<<<blocks_for(items), kThreads, 0, stream>>>(table, num_partners, inverse);
  check_cuda(cudaGetLastError(), "strided_pairs: invert");
}

int64_t pairs_workspace(const PairTable& table) {
  const int64_t items = table.num_offsets * table.count + 1;
  Workspace workspace(nullptr);
  workspace.take<int64_t>(items);
  workspace.take<char>(static_cast<int64_t>(scan_bytes(items)));
  return workspace.bytes();
}

int64_t count_pairs(const Executor& executor, const PairTable& table, int64_t* offsets, void* workspace) {
  const cudaStream_t stream = stream_of(executor);
  const int64_t items = table.num_offsets * table.count + 1;
  size_t bytes = scan_bytes(items);
  Workspace pieces(workspace);
  int64_t* const places = pieces.take<int64_t>(items);
  char* const scan = pieces.take<char>(static_cast<int64_t>(bytes));
  mark_pairs<<<blocks_for(items), kThreads, 0, stream>>>(table, places);
  check_cuda(cudaGetLastError(), "sparse pairs: mark");
  check_cuda(cub::DeviceScan::InclusiveSum(scan, bytes, places, places, items, stream), "sparse pairs: scan");
  take_offsets<<<blocks_for(table.num_offsets + 1), kThreads, 0, stream>>>(table, places, offsets);
  check_cuda(cudaGetLastError(), "sparse pairs: offsets");
  return read_number(places + items - 1, stream);
}

void list_pairs(const Executor& executor, const PairTable& table, const int64_t*, const void* workspace,
                int64_t* sources, int64_t* targets) {
  const int64_t items = table.num_offsets * table.count;
  if (items == 0) return;
  const int64_t* const places = static_cast<const int64_t*>(workspace);
  write_pairs<<<blocks_for(items), kThreads, 0, stream_of(executor)>>>(table, places, sources, targets);
  check_cuda(cudaGetLastError(), "sparse pairs: list");
}

}  // namespace perception
