#include <cub/device/device_radix_sort.cuh>

#include "cuda/launch.cuh"
#include "ops/group_rows.h"

namespace perception {
namespace {

struct Buffers {
  int64_t* keys;
  int64_t* sorted_keys;
  int64_t* rows;
  char* sort;
  size_t sort_bytes = 0;
  int64_t total;

  Buffers(void* base, int64_t num_rows) {
    check_cuda(cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, static_cast<int64_t*>(nullptr),
                                               static_cast<int64_t*>(nullptr), static_cast<int64_t*>(nullptr),
                                               static_cast<int64_t*>(nullptr), num_rows),
               "group_rows: size of the sort");
    Workspace workspace(base);
    keys = workspace.take<int64_t>(num_rows);
    sorted_keys = workspace.take<int64_t>(num_rows);
    rows = workspace.take<int64_t>(num_rows);
    sort = workspace.take<char>(static_cast<int64_t>(sort_bytes));
    total = workspace.bytes();
  }
};

__global__ void make_keys(const int64_t* index, int64_t num_rows, int64_t num_groups, int64_t* keys, int64_t* rows) {
  for (int64_t row = first_item(); row < num_rows; row += item_stride()) {
    const int64_t group = index[row];
    keys[row] = group >= 0 && group < num_groups ? group : num_groups;
    rows[row] = row;
  }
}

// offsets[g] = number of keys below g, by bisection.
__global__ void find_offsets(const int64_t* sorted_keys, int64_t num_rows, int64_t num_groups, int64_t* offsets) {
  for (int64_t group = first_item(); group <= num_groups; group += item_stride()) {
    int64_t low = 0, high = num_rows;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (sorted_keys[middle] < group) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    offsets[group] = low;
  }
}

int bits_of(int64_t value) {
  int bits = 1;
  while (value >>= 1) ++bits;
  return bits;
}

}  // namespace

int64_t group_rows_workspace(int64_t num_rows) { return num_rows == 0 ? 0 : Buffers(nullptr, num_rows).total; }

int64_t group_rows(const Executor& executor, const int64_t* index, int64_t num_rows, int64_t num_groups, int64_t* order,
                   int64_t* offsets, void* workspace) {
  const cudaStream_t stream = stream_of(executor);
  const int64_t* sorted_keys = nullptr;
  if (num_rows > 0) {
    Buffers buffers(workspace, num_rows);
    make_keys<<<blocks_for(num_rows), kThreads, 0, stream>>>(index, num_rows, num_groups, buffers.keys, buffers.rows);
    check_cuda(cudaGetLastError(), "group_rows: keys");
    check_cuda(cub::DeviceRadixSort::SortPairs(buffers.sort, buffers.sort_bytes, buffers.keys, buffers.sorted_keys,
                                               buffers.rows, order, num_rows, 0, bits_of(num_groups), stream),
               "group_rows: sort");
    sorted_keys = buffers.sorted_keys;
  }
  find_offsets<<<blocks_for(num_groups + 1), kThreads, 0, stream>>>(sorted_keys, num_rows, num_groups, offsets);
  check_cuda(cudaGetLastError(), "group_rows: offsets");
  return -1;
}

}  // namespace perception
