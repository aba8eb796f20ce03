#include "cuda/upright_boxes.cuh"
#include "ops/nms.h"

namespace perception {
namespace {

using Word = unsigned long long;
constexpr int64_t kBits = 64;

int64_t words_for(int64_t count) { return (count + kBits - 1) / kBits; }

template <typename T>
struct BoxTest {
  UprightBoxes<T> boxes;
  T threshold;

  __device__ bool operator()(int64_t row, int64_t other) const {
    const UprightBox<T> box = boxes[row];
    return boxes.is_near(box, other) && overlap(box, boxes[other]) > threshold;
  }
};

struct CenterTest {
  const double* centers;  // (count, 2), the best first; NaN where never kept
  double radius_m;

  __device__ bool operator()(int64_t row, int64_t other) const {
    const double dx = centers[2 * other] - centers[2 * row], dy = centers[2 * other + 1] - centers[2 * row + 1];
    return sqrt(dx * dx + dy * dy) <= radius_m;
  }
};

// Puts the centres in order.
__global__ void sort_centers(CircleCandidates candidates, double* sorted) {
  for (int64_t i = first_item(); i < candidates.count; i += item_stride()) {
    const int64_t row = candidates.order[i];
    double x = 0, y = 0;
    bool valid = row >= 0 && row < candidates.count;
    if (valid) {
      x = candidates.centers[2 * row];
      y = candidates.centers[2 * row + 1];
      valid = isfinite(x) && isfinite(y) && !isnan(candidates.scores[row]);
    }
    sorted[2 * i] = valid ? x : nan("");
    sorted[2 * i + 1] = valid ? y : nan("");
  }
}

__global__ void drop_invalid(const double* sorted, int64_t count, bool* kept) {
  for (int64_t i = first_item(); i < count; i += item_stride()) kept[i] = kept[i] && !isnan(sorted[2 * i]);
}

// One thread per row and word: bit i of masks[row * words + word] says that `row` would suppress the later candidate
// 64 * word + i. Threads of a warp have neighbouring rows and one word, so that they read the same candidate together.
template <typename Test>
__global__ void find_suppressed(int64_t count, int64_t words, Test test, Word* masks) {
  for (int64_t item = first_item(); item < count * words; item += item_stride()) {
    const int64_t row = item % count;
    const int64_t word = item / count;
    Word mask = 0;
    for (int64_t bit = 0; bit < kBits; ++bit) {
      const int64_t other = word * kBits + bit;
      if (other > row && other < count && test(row, other)) mask |= Word{1} << bit;
    }
    masks[row * words + word] = mask;
  }
}

// One block goes through the candidates 64 at a time: its first thread settles these among themselves, then all threads
// gather what the kept ones suppress later. `removed` (words) starts at 0.
__global__ void keep_greedily(int64_t count, int64_t words, const Word* masks, Word* removed, bool* kept) {
  __shared__ Word own[kBits];
  __shared__ Word alive;
  for (int64_t word = 0; word < words; ++word) {
    const int64_t first = word * kBits;
    const int rows = static_cast<int>(count - first < kBits ? count - first : kBits);
    if (threadIdx.x < rows) own[threadIdx.x] = masks[(first + threadIdx.x) * words + word];
    __syncthreads();
    if (threadIdx.x == 0) {
      Word gone = removed[word];
      for (int row = 0; row < rows; ++row) {
        if (!(gone >> row & 1)) gone |= own[row];
      }
      alive = ~gone;
    }
    __syncthreads();
    const Word now_alive = alive;
    if (threadIdx.x < rows) kept[first + threadIdx.x] = now_alive >> threadIdx.x & 1;
    for (int64_t later = word + 1 + threadIdx.x; later < words; later += blockDim.x) {
      Word gone = removed[later];
      for (int row = 0; row < rows; ++row) {
        if (now_alive >> row & 1) gone |= masks[(first + row) * words + later];
      }
      removed[later] = gone;
    }
    __syncthreads();
  }
}

struct Buffers {
  char* numbers;  // boxes or centres
  Word* masks;
  Word* removed;
  int64_t total;

  Buffers(void* base, int64_t count, int64_t bytes_each) {
    Workspace workspace(base);
    numbers = workspace.take<char>(count * bytes_each);
    masks = workspace.take<Word>(count * words_for(count));
    removed = workspace.take<Word>(words_for(count));
    total = workspace.bytes();
  }
};

template <typename Test>
void run(const Executor& executor, int64_t count, const Test& test, const Buffers& buffers, bool* kept) {
  const cudaStream_t stream = stream_of(executor);
  const int64_t words = words_for(count);
  check_cuda(cudaMemsetAsync(buffers.removed, 0, static_cast<size_t>(words) * sizeof(Word), stream), "nms: clear");
  find_suppressed<<<blocks_for(count * words), kThreads, 0, stream>>>(count, words, test, buffers.masks);
  keep_greedily<<<1, kThreads, 0, stream>>>(count, words, buffers.masks, buffers.removed, kept);
  check_cuda(cudaGetLastError(), "nms");
}

}  // namespace

int64_t nms_rotated_workspace(int64_t count, int64_t number_bytes) {
  return Buffers(nullptr, count, number_bytes * UprightBox<float>::kFields).total;
}

template <typename T>
void nms_rotated(const Executor& executor, const T* boxes, int64_t count, int64_t columns, double threshold, bool* kept,
                 void* workspace) {
  if (count == 0) return;
  const Buffers buffers(workspace, count, sizeof(T) * UprightBox<T>::kFields);
  const UprightBoxes<T> prepared =
      prepare_boxes(executor, boxes, count, columns, false, reinterpret_cast<T*>(buffers.numbers));
  run(executor, count, BoxTest<T>{prepared, static_cast<T>(threshold)}, buffers, kept);
}

int64_t nms_circle_workspace(int64_t count) { return Buffers(nullptr, count, 2 * sizeof(double)).total; }

void nms_circle(const Executor& executor, const CircleCandidates& candidates, double radius_m, bool* kept,
                void* workspace) {
  const int64_t count = candidates.count;
  if (count == 0) return;
  const Buffers buffers(workspace, count, 2 * sizeof(double));
  double* const sorted = reinterpret_cast<double*>(buffers.numbers);
  sort_centers<<<blocks_for(count), kThreads, 0, stream_of(executor)>>>(candidates, sorted);
  run(executor, count, CenterTest{sorted, radius_m}, buffers, kept);
  drop_invalid<<<blocks_for(count), kThreads, 0, stream_of(executor)>>>(sorted, count, kept);
  check_cuda(cudaGetLastError(), "nms_circle");
}

template void nms_rotated<float>(const Executor&, const float*, int64_t, int64_t, double, bool*, void*);
template void nms_rotated<double>(const Executor&, const double*, int64_t, int64_t, double, bool*, void*);

}  // namespace perception
