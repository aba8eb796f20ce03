#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#include "cuda/launch.cuh"
#include "ops/sparse_pairs.h"

namespace perception {

// The partner of each voxel for each element, -1 for none, and how many pairs there are up to and with entry i - 1.
struct PairTable {
  int32_t* partners;  // (num_offsets, count)
  int64_t* places;    // (num_offsets * count + 1)
  int64_t num_offsets;
  int64_t count;

  __host__ __device__ int64_t size() const { return num_offsets * count; }
};

struct PairSearch {
  SparseGeometry geometry;
  PairTable by_output;
  PairTable by_input;                     // of a strided convolution
  const unsigned long long* output_keys;  // the same, rising
};

namespace {

using Word = unsigned long long;  // what 64-bit atomics take
constexpr Word kFree = ~Word{0};  // above all keys

// Which slot a key gets depends on timing: results must not.
struct KeyTable {
  Word* keys;  // (slots), all free at first
  int64_t slots;

  __device__ int64_t insert(int64_t key) const {
    int64_t at = home_slot(key, slots);
    while (true) {
      const Word previous = atomicCAS(keys + at, kFree, static_cast<Word>(key));
      if (previous == kFree || previous == static_cast<Word>(key)) return at;
      at = (at + 1) & (slots - 1);
    }
  }

  // Gives the slot of a key, or -1.
  __device__ int64_t find(int64_t key) const {
    int64_t at = home_slot(key, slots);
    while (keys[at] != kFree && keys[at] != static_cast<Word>(key)) at = (at + 1) & (slots - 1);
    return keys[at] == kFree ? -1 : at;
  }
};

KeyTable take_table(const Scratch& scratch, int64_t num_keys, cudaStream_t stream) {
  const int64_t slots = slots_for(num_keys);
  const KeyTable table{scratch.take<Word>(slots), slots};
  check_cuda(cudaMemsetAsync(table.keys, 0xFF, static_cast<size_t>(slots) * sizeof(Word), stream),
             "sparse pairs: clear keys");
  return table;
}

// `lowest` (slots): the first voxel of each key, all bits set at first.
__global__ void insert_voxels(SparseGeometry geometry, SparseVoxels voxels, KeyTable table, Word* lowest) {
  for (int64_t voxel = first_item(); voxel < voxels.count; voxel += item_stride()) {
    const int64_t key = cell_key(geometry.in_shape, voxels.coords + 4 * voxel);
    if (key >= 0) atomicMin(lowest + table.insert(key), static_cast<Word>(voxel));
  }
}

// One thread per (element, voxel): the input that the output seen through the opposite element is.
__global__ void find_neighbours(SparseGeometry geometry, SparseVoxels voxels, KeyTable known, const Word* lowest,
                                PairTable table) {
  for (int64_t item = first_item(); item < table.size(); item += item_stride()) {
    const int64_t* const coords = voxels.coords + 4 * (item % voxels.count);
    int64_t seen[4];
    const bool exists = cell_key(geometry.in_shape, coords) >= 0 &&
                        output_coords(geometry, coords, table.num_offsets - 1 - item / voxels.count, seen);
    const int64_t slot = exists ? known.find(cell_key(geometry.in_shape, seen)) : -1;
    table.partners[item] = slot < 0 ? -1 : static_cast<int32_t>(lowest[slot]);
  }
}

// slots[item]: of the output that the voxel meets through the element, -1 for none.
__global__ void insert_outputs(SparseGeometry geometry, SparseVoxels voxels, KeyTable table, int64_t* slots) {
  for (int64_t item = first_item(); item < geometry.num_offsets() * voxels.count; item += item_stride()) {
    const int64_t* const coords = voxels.coords + 4 * (item % voxels.count);
    int64_t output[4];
    const bool exists =
        cell_key(geometry.in_shape, coords) >= 0 && output_coords(geometry, coords, item / voxels.count, output);
    slots[item] = exists ? table.insert(cell_key(geometry.out_shape, output)) : -1;
  }
}

__global__ void count_up(int64_t* numbers, int64_t count) {
  for (int64_t i = first_item(); i < count; i += item_stride()) numbers[i] = i;
}

// ranks[slot]: number of the output that has the slot; `num_outputs` is 0 at first.
__global__ void rank_outputs(const Word* keys, const int64_t* slots, int64_t count, int64_t* ranks,
                             int64_t* num_outputs) {
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    if (keys[i] == kFree) continue;
    ranks[slots[i]] = i;
    if (i + 1 == count || keys[i + 1] == kFree) *num_outputs = i + 1;
  }
}

__global__ void take_ranks(const int64_t* slots, const int64_t* ranks, PairTable table) {
  for (int64_t item = first_item(); item < table.size(); item += item_stride()) {
    table.partners[item] = slots[item] < 0 ? -1 : static_cast<int32_t>(ranks[slots[item]]);
  }
}

__global__ void write_coords(SparseGeometry geometry, const Word* keys, int64_t count, int64_t* coords) {
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    cell_coords(geometry.out_shape, static_cast<int64_t>(keys[i]), coords + 4 * i);
  }
}

__global__ void invert(PairTable table, PairTable inverse) {
  for (int64_t item = first_item(); item < table.size(); item += item_stride()) {
    const int32_t partner = table.partners[item];
    if (partner >= 0) {
      inverse.partners[item / table.count * inverse.count + partner] = static_cast<int32_t>(item % table.count);
    }
  }
}

// places[i + 1] = 1 where entry i is a pair; summed up afterwards.
__global__ void mark_pairs(PairTable table) {
  for (int64_t i = first_item(); i <= table.size(); i += item_stride()) {
    table.places[i] = i > 0 && table.partners[i - 1] >= 0;
  }
}

__global__ void take_offsets(PairTable table, int64_t* offsets) {
  for (int64_t offset = first_item(); offset <= table.num_offsets; offset += item_stride()) {
    offsets[offset] = table.places[offset * table.count];
  }
}

__global__ void write_pairs(PairTable table, int64_t* sources, int64_t* targets) {
  for (int64_t item = first_item(); item < table.size(); item += item_stride()) {
    const int32_t partner = table.partners[item];
    if (partner < 0) continue;
    sources[table.places[item]] = partner;
    targets[table.places[item]] = item % table.count;
  }
}

int64_t read_number(const int64_t* number, cudaStream_t stream) {
  int64_t value = 0;
  check_cuda(cudaMemcpyAsync(&value, number, sizeof(value), cudaMemcpyDeviceToHost, stream), "sparse pairs: count");
  check_cuda(cudaStreamSynchronize(stream), "sparse pairs");
  return value;
}

PairTable empty_table(const Scratch& scratch, int64_t num_offsets, int64_t count) {
  return {scratch.take<int32_t>(num_offsets * count), scratch.take<int64_t>(num_offsets * count + 1), num_offsets,
          count};
}

// Gives every pair of the table its place.
void number_pairs(const Scratch& scratch, const PairTable& table, cudaStream_t stream) {
  const int64_t items = table.size() + 1;
  mark_pairs<<<blocks_for(items), kThreads, 0, stream>>>(table);
  check_cuda(cudaGetLastError(), "sparse pairs: mark");
  size_t bytes = 0;
  check_cuda(cub::DeviceScan::InclusiveSum(nullptr, bytes, table.places, table.places, items, stream),
             "sparse pairs: size of the scan");
  char* const room = scratch.take<char>(static_cast<int64_t>(bytes));
  check_cuda(cub::DeviceScan::InclusiveSum(room, bytes, table.places, table.places, items, stream),
             "sparse pairs: scan");
}

// Sorts the keys of the table; slots (table.slots) are where they were.
Word* sort_keys(const Scratch& scratch, const KeyTable& table, int64_t* slots, cudaStream_t stream) {
  int64_t* const unsorted = scratch.take<int64_t>(table.slots);
  Word* const keys = scratch.take<Word>(table.slots);
  count_up<<<blocks_for(table.slots), kThreads, 0, stream>>>(unsorted, table.slots);
  check_cuda(cudaGetLastError(), "strided_pairs: slots");
  size_t bytes = 0;
  constexpr int kBits = 63;  // keys are below kKeyLimit, free slots have all bits set
  check_cuda(
      cub::DeviceRadixSort::SortPairs(nullptr, bytes, table.keys, keys, unsorted, slots, table.slots, 0, kBits, stream),
      "strided_pairs: size of the sort");
  char* const room = scratch.take<char>(static_cast<int64_t>(bytes));
  check_cuda(
      cub::DeviceRadixSort::SortPairs(room, bytes, table.keys, keys, unsorted, slots, table.slots, 0, kBits, stream),
      "strided_pairs: sort");
  return keys;
}

}  // namespace

FoundPairs find_submanifold_pairs(const Executor& executor, const Scratch& scratch, const SparseGeometry& geometry,
                                  const SparseVoxels& voxels) {
  const cudaStream_t stream = stream_of(executor);
  const PairTable table = empty_table(scratch, geometry.num_offsets(), voxels.count);
  const auto search = std::make_shared<PairSearch>(PairSearch{geometry, table, {}, nullptr});
  if (voxels.count > 0) {
    const KeyTable known = take_table(scratch, voxels.count, stream);
    Word* const lowest = scratch.take<Word>(known.slots);
    check_cuda(cudaMemsetAsync(lowest, 0xFF, static_cast<size_t>(known.slots) * sizeof(Word), stream),
               "submanifold_pairs: clear");
    insert_voxels<<<blocks_for(voxels.count), kThreads, 0, stream>>>(geometry, voxels, known, lowest);
    find_neighbours<<<blocks_for(table.size()), kThreads, 0, stream>>>(geometry, voxels, known, lowest, table);
    check_cuda(cudaGetLastError(), "submanifold_pairs");
  }
  number_pairs(scratch, table, stream);
  return {read_number(table.places + table.size(), stream), voxels.count, -1, search};
}

FoundPairs find_strided_pairs(const Executor& executor, const Scratch& scratch, const SparseGeometry& geometry,
                              const SparseVoxels& voxels) {
  const cudaStream_t stream = stream_of(executor);
  const int64_t num_offsets = geometry.num_offsets(), items = num_offsets * voxels.count;
  const PairTable by_input = empty_table(scratch, num_offsets, voxels.count);
  const auto search = std::make_shared<PairSearch>(PairSearch{geometry, {}, by_input, nullptr});
  int64_t num_outputs = 0;
  if (voxels.count > 0) {
    const KeyTable known = take_table(scratch, most_outputs(geometry, voxels.count), stream);
    int64_t* const slots = scratch.take<int64_t>(items);
    insert_outputs<<<blocks_for(items), kThreads, 0, stream>>>(geometry, voxels, known, slots);
    check_cuda(cudaGetLastError(), "strided_pairs: outputs");
    int64_t *const sorted_slots = scratch.take<int64_t>(known.slots), *const ranks = scratch.take<int64_t>(known.slots);
    int64_t* const count = scratch.take<int64_t>(1);
    search->output_keys = sort_keys(scratch, known, sorted_slots, stream);
    check_cuda(cudaMemsetAsync(count, 0, sizeof(int64_t), stream), "strided_pairs: clear");
    rank_outputs<<<blocks_for(known.slots), kThreads, 0, stream>>>(search->output_keys, sorted_slots, known.slots,
                                                                   ranks, count);
    take_ranks<<<blocks_for(items), kThreads, 0, stream>>>(slots, ranks, by_input);
    check_cuda(cudaGetLastError(), "strided_pairs: numbers");
    num_outputs = read_number(count, stream);
  }
  search->by_output = empty_table(scratch, num_offsets, num_outputs);
  const size_t bytes = static_cast<size_t>(search->by_output.size()) * sizeof(int32_t);
  if (bytes > 0) {
    check_cuda(cudaMemsetAsync(search->by_output.partners, 0xFF, bytes, stream), "strided_pairs: clear");
    invert<<<blocks_for(items), kThreads, 0, stream>>>(by_input, search->by_output);
    check_cuda(cudaGetLastError(), "strided_pairs: invert");
  }
  number_pairs(scratch, by_input, stream);
  number_pairs(scratch, search->by_output, stream);
  const int64_t num_pairs = read_number(by_input.places + items, stream);
  if (num_pairs != read_number(search->by_output.places + search->by_output.size(), stream)) {
    throw std::invalid_argument("strided_pairs: coords must be distinct voxels");  // one took another's place
  }
  return {num_pairs, num_outputs, -1, search};
}

void list_outputs(const Executor& executor, const FoundPairs& found, int64_t* coords) {
  if (found.num_outputs == 0) return;
  write_coords<<<blocks_for(found.num_outputs), kThreads, 0, stream_of(executor)>>>(
      found.search->geometry, found.search->output_keys, found.num_outputs, coords);
  check_cuda(cudaGetLastError(), "strided_pairs: coords");
}

void list_pairs(const Executor& executor, const FoundPairs& found, PairTargets ends, int64_t* offsets, int64_t* sources,
                int64_t* targets) {
  const cudaStream_t stream = stream_of(executor);
  const PairTable& table = ends == PairTargets::kOutputs ? found.search->by_output : found.search->by_input;
  take_offsets<<<blocks_for(table.num_offsets + 1), kThreads, 0, stream>>>(table, offsets);
  if (table.size() > 0) write_pairs<<<blocks_for(table.size()), kThreads, 0, stream>>>(table, sources, targets);
  check_cuda(cudaGetLastError(), "sparse pairs: list");
}

}  // namespace perception
