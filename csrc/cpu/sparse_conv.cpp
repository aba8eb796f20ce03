#include "ops/sparse_conv.h"

#include <algorithm>

namespace perception {
namespace {

constexpr int64_t kTargetsPerTask = 1024;  // their sums stay in the second-level cache over all elements
constexpr int64_t kPairsPerPart = 4096;    // pairs that one partial sum of a weights' gradient takes up
constexpr int64_t kPairsAtOnce = 48;       // pairs whose rows stay in the first-level cache

struct MatrixSizes {
  int64_t in_channels;
  int64_t out_channels;
};

template <typename T>
struct Tiles {
  void (*multiply_pairs)(const MatrixSizes&, const T*, const int64_t*, const T*, const int64_t*, int64_t, T*);
  void (*add_outer_products)(const MatrixSizes&, const T*, const int64_t*, const T*, const int64_t*, int64_t, int64_t,
                             T*);
};

namespace baseline {
constexpr int kVectorBytes = 16, kTileRows = 4, kTileVectors = 2;
#include "cpu/sparse_conv_tiles.h"
}  // namespace baseline

// Unlike other kernels these fuse multiplication and addition where the machine can, which doubles their speed: results
// differ in the last bits between machines with and without, never between numbers of threads.
#if !defined(PERCEPTION_BASELINE_ONLY) && !defined(__clang__) && __GNUC__ >= 12
#define PERCEPTION_TILES

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#pragma GCC optimize("fp-contract=fast")
namespace avx2 {
constexpr int kVectorBytes = 32, kTileRows = 6, kTileVectors = 2;
#include "cpu/sparse_conv_tiles.h"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,fma")
#pragma GCC optimize("fp-contract=fast")
namespace avx512 {
constexpr int kVectorBytes = 64, kTileRows = 6, kTileVectors = 4;
#include "cpu/sparse_conv_tiles.h"
}  // namespace avx512
#pragma GCC pop_options
#endif

template <typename T>
const Tiles<T>& tiles() {
#ifdef PERCEPTION_TILES
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq")) {
    return avx512::kTiles<T>;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::kTiles<T>;
#endif
  return baseline::kTiles<T>;
}

// A stretch of the pairs of one element; all parts but an element's last have kPairsPerPart pairs.
struct Part {
  int64_t offset;
  int64_t begin;
  int64_t end;
};

int64_t num_parts(int64_t num_pairs) { return (num_pairs + kPairsPerPart - 1) / kPairsPerPart; }

Part find_part(const SparsePairs& pairs, int64_t number) {
  int64_t offset = 0;
  for (;; ++offset) {
    const int64_t own = num_parts(pairs.offsets[offset + 1] - pairs.offsets[offset]);
    if (number < own) break;
    number -= own;
  }
  const int64_t begin = pairs.offsets[offset] + number * kPairsPerPart;
  return {offset, begin, std::min(begin + kPairsPerPart, pairs.offsets[offset + 1])};
}

}  // namespace

template <typename T>
void sparse_conv(const Executor& executor, const SparseConvSizes& sizes, const SparsePairs& pairs, const T* features,
                 const T* weights, T* result) {
  const MatrixSizes matrix{sizes.in_channels, sizes.out_channels};
  executor.parallel_for(sizes.num_targets, kTargetsPerTask, [&](int64_t task_begin, int64_t task_end) {
    std::fill(result + task_begin * sizes.out_channels, result + task_end * sizes.out_channels, T(0));
    for (int64_t begin = task_begin; begin < task_end; begin += kTargetsPerTask) {
      const int64_t end = std::min(begin + kTargetsPerTask, task_end);
      for (int64_t offset = 0; offset < sizes.num_offsets; ++offset) {
        const int64_t* const first = pairs.targets + pairs.offsets[offset];
        const int64_t* const last = pairs.targets + pairs.offsets[offset + 1];
        const int64_t* const own = std::lower_bound(first, last, begin);
        const int64_t count = std::lower_bound(own, last, end) - own;
        tiles<T>().multiply_pairs(matrix, features, pairs.sources + (own - pairs.targets),
                                  weights + offset * matrix.in_channels * matrix.out_channels, own, count, result);
      }
    }
  });
}

int64_t sparse_conv_workspace(const SparseConvSizes& sizes) {
  return (num_parts(sizes.num_pairs) + sizes.num_offsets) * sizes.in_channels * sizes.out_channels;
}

template <typename T>
void sparse_conv_weights_backward(const Executor& executor, const SparseConvSizes& sizes, const SparsePairs& pairs,
                                  const T* features, const T* gradient, T* weights_gradient, T* workspace) {
  const MatrixSizes matrix{sizes.in_channels, sizes.out_channels};
  const int64_t area = matrix.in_channels * matrix.out_channels;
  int64_t total_parts = 0;
  for (int64_t k = 0; k < sizes.num_offsets; ++k) total_parts += num_parts(pairs.offsets[k + 1] - pairs.offsets[k]);
  executor.parallel_for(total_parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t number = first; number < last; ++number) {
      const Part part = find_part(pairs, number);
      T* const sum = workspace + number * area;
      std::fill(sum, sum + area, T(0));
      for (int64_t pair = part.begin; pair < part.end; pair += kPairsAtOnce) {
        const int64_t count = std::min(kPairsAtOnce, part.end - pair);
        const int64_t next_pairs = part.end - pair >= 2 * kPairsAtOnce ? kPairsAtOnce : 0;
        tiles<T>().add_outer_products(matrix, features, pairs.sources + pair, gradient, pairs.targets + pair, count,
                                      next_pairs, sum);
      }
    }
  });
  std::fill(weights_gradient, weights_gradient + sizes.num_offsets * area, T(0));
  for (int64_t number = 0; number < total_parts; ++number) {
    T* const target = weights_gradient + find_part(pairs, number).offset * area;
    const T* const sum = workspace + number * area;
    for (int64_t i = 0; i < area; ++i) target[i] += sum[i];
  }
}

#define INSTANTIATE(T)                                                                                                 \
  template void sparse_conv<T>(const Executor&, const SparseConvSizes&, const SparsePairs&, const T*, const T*, T*);   \
  template void sparse_conv_weights_backward<T>(const Executor&, const SparseConvSizes&, const SparsePairs&, const T*, \
                                                const T*, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
