#include <set>

#include "ops/sparse_conv.h"
#include "ops/sparse_pairs.h"
#include "tests/check.h"

namespace perception::testing {
namespace {

SparseGeometry submanifold(const int64_t* shape, const int64_t* kernel, int64_t dilation) {
  SparseGeometry geometry{};
  for (int axis = 0; axis < 3; ++axis) {
    geometry.kernel[axis] = kernel[axis];
    geometry.stride[axis] = 1;
    geometry.dilation[axis] = dilation;
    geometry.padding[axis] = dilation * (kernel[axis] / 2);
    geometry.in_shape[axis] = geometry.out_shape[axis] = shape[axis];
  }
  return geometry;
}

SparseGeometry strided(const int64_t* shape, const int64_t* kernel, int64_t stride, int64_t padding) {
  SparseGeometry geometry = submanifold(shape, kernel, 1);
  for (int axis = 0; axis < 3; ++axis) {
    geometry.stride[axis] = stride;
    geometry.padding[axis] = padding;
    geometry.out_shape[axis] = (shape[axis] + 2 * padding - kernel[axis]) / stride + 1;
  }
  return geometry;
}

// At most `most` different voxels of two samples, in any order.
Buffer<int64_t> random_voxels(Random& random, const int64_t* shape, int64_t most) {
  std::set<int64_t> keys;
  for (int64_t i = 0; i < most; ++i) {
    const int64_t coords[] = {random.whole(0, 1), random.whole(0, shape[0] - 1), random.whole(0, shape[1] - 1),
                              random.whole(0, shape[2] - 1)};
    keys.insert(cell_key(shape, coords));
  }
  std::vector<int64_t> shuffled(keys.begin(), keys.end());
  std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937(7));
  Buffer<int64_t> coords(4 * static_cast<int64_t>(shuffled.size()));
  for (size_t i = 0; i < shuffled.size(); ++i) cell_coords(shape, shuffled[i], coords.data() + 4 * i);
  return coords;
}

struct Pairs {
  Buffer<int64_t> offsets, sources, targets;
};

Pairs listed(const Executor& executor, const SparseGeometry& geometry, const FoundPairs& found, PairTargets ends) {
  Pairs pairs{Buffer<int64_t>(geometry.num_offsets() + 1), Buffer<int64_t>(found.num_pairs),
              Buffer<int64_t>(found.num_pairs)};
  list_pairs(executor, found, ends, pairs.offsets.data(), pairs.sources.data(), pairs.targets.data());
  CHECK(pairs.offsets[geometry.num_offsets()] == found.num_pairs);
  return pairs;
}

// Every pair meets as output_coords says, and as many pairs are listed as meet.
void check_pairs(const SparseGeometry& geometry, const Pairs& pairs, const Buffer<int64_t>& inputs,
                 const Buffer<int64_t>& outputs) {
  std::set<int64_t> keys;
  for (int64_t i = 0; i < outputs.size() / 4; ++i) keys.insert(cell_key(geometry.out_shape, outputs.data() + 4 * i));
  CHECK(static_cast<int64_t>(keys.size()) == outputs.size() / 4 && keys.count(-1) == 0);
  int64_t meetings = 0;
  for (int64_t offset = 0; offset < geometry.num_offsets(); ++offset) {
    int64_t expected[4];
    for (int64_t i = 0; i < inputs.size() / 4; ++i) {
      if (output_coords(geometry, inputs.data() + 4 * i, offset, expected)) {
        meetings += static_cast<int64_t>(keys.count(cell_key(geometry.out_shape, expected)));
      }
    }
    for (int64_t pair = pairs.offsets[offset]; pair < pairs.offsets[offset + 1]; ++pair) {
      const int64_t source = pairs.sources[pair], target = pairs.targets[pair];
      CHECK(output_coords(geometry, inputs.data() + 4 * source, offset, expected));
      CHECK(std::equal(expected, expected + 4, outputs.data() + 4 * target));
      CHECK(pair == pairs.offsets[offset] || pairs.targets[pair - 1] < target);
    }
  }
  CHECK(meetings == pairs.sources.size());
}

// Results are compared between numbers of threads and with a loop, but not between instruction sets: this op alone
// fuses multiplication and addition where the machine can.
template <typename T>
void convolve(const Pairs& pairs, int64_t num_inputs, int64_t num_outputs, int64_t in, int64_t out) {
  Random random(2);
  const int64_t num_offsets = pairs.offsets.size() - 1, num_pairs = pairs.sources.size();
  const SparseConvSizes sizes{num_inputs, num_outputs, num_offsets, num_pairs, in, out};
  const SparsePairs lists{pairs.sources.data(), pairs.targets.data(), pairs.offsets.data()};
  const Buffer<T> features = random.reals<T>(num_inputs * in, -1, 1),
                  gradient = random.reals<T>(num_outputs * out, -1, 1);
  const Buffer<T> weights = random.reals<T>(num_offsets * in * out, -1, 1);
  on_threads([&](const Executor& executor) {
    Buffer<T> result(num_outputs * out), weights_gradient(weights.size()), workspace(sparse_conv_workspace(sizes));
    sparse_conv(executor, sizes, lists, features.data(), weights.data(), result.data());
    sparse_conv_weights_backward(executor, sizes, lists, features.data(), gradient.data(), weights_gradient.data(),
                                 workspace.data());
    double by_result = 0, by_weights = 0;
    for (int64_t i = 0; i < result.size(); ++i) {
      by_result += static_cast<double>(result[i]) * static_cast<double>(gradient[i]);
    }
    for (int64_t i = 0; i < weights.size(); ++i) {
      by_weights += static_cast<double>(weights[i]) * static_cast<double>(weights_gradient[i]);
    }
    CHECK(std::fabs(by_result - by_weights) < 2e-2);
    return bytes_of(result, weights_gradient);
  });
}

constexpr int64_t kShape[] = {6, 20, 20}, kThin[] = {1, 1, 200};
constexpr int64_t kThree[] = {3, 3, 3}, kOne[] = {1, 1, 1}, kUneven[] = {1, 5, 3}, kTwo[] = {2, 2, 2};

TEST(submanifold_pairs_are_those_that_meet) {
  Random random(1);
  for (const int64_t* const shape : {kShape, kThin}) {
    for (const int64_t* const kernel : {kThree, kOne, kUneven}) {
      for (const int64_t most : row_counts()) {
        const SparseGeometry geometry = submanifold(shape, kernel, most % 2 + 1);
        const Buffer<int64_t> coords = random_voxels(random, shape, most);
        const int64_t count = coords.size() / 4;
        steady([&](const Executor& executor) {
          const FoundPairs found = find_submanifold_pairs(executor, {}, geometry, {coords.data(), count});
          CHECK(found.bad_voxel == -1 && found.num_outputs == count);
          const Pairs pairs = listed(executor, geometry, found, PairTargets::kOutputs);
          check_pairs(geometry, pairs, coords, coords);
          return bytes_of(pairs.offsets, pairs.sources, pairs.targets);
        });
      }
    }
  }
}

struct Strided {
  Pairs forward, backward;
  Buffer<int64_t> outputs;
};

Strided strided_pairs(const Executor& executor, const SparseGeometry& geometry, const Buffer<int64_t>& coords) {
  const FoundPairs found = find_strided_pairs(executor, {}, geometry, {coords.data(), coords.size() / 4});
  CHECK(found.bad_voxel == -1);
  Buffer<int64_t> outputs(4 * found.num_outputs);
  list_outputs(executor, found, outputs.data());
  return {listed(executor, geometry, found, PairTargets::kOutputs),
          listed(executor, geometry, found, PairTargets::kInputs), std::move(outputs)};
}

TEST(strided_pairs_are_those_that_meet) {
  Random random(2);
  for (const int64_t* const kernel : {kThree, kOne, kTwo}) {
    for (const int64_t stride : {1, 2, 3}) {
      for (const int64_t most : row_counts()) {
        const SparseGeometry geometry = strided(kShape, kernel, stride, kernel[0] / 2);
        const Buffer<int64_t> coords = random_voxels(random, kShape, most);
        steady([&](const Executor& executor) {
          const Strided found = strided_pairs(executor, geometry, coords);
          check_pairs(geometry, found.forward, coords, found.outputs);
          CHECK(found.forward.sources.size() == found.backward.sources.size());
          return bytes_of(found.outputs, found.forward.sources, found.forward.targets, found.backward.sources,
                          found.backward.targets, found.forward.offsets);
        });
      }
    }
  }
}

TEST(sparse_conv_and_its_gradient_agree) {
  Random random(3);
  for (const int64_t most : {0, 1, 65, 1500}) {
    const Buffer<int64_t> coords = random_voxels(random, kShape, most);
    const Strided found = strided_pairs({run_whole}, strided(kShape, kThree, 2, 1), coords);
    for (const int64_t in : {1, 7, 16, 64}) {
      for (const int64_t out : {1, 5, 32, 67}) {
        convolve<float>(found.forward, coords.size() / 4, found.outputs.size() / 4, in, out);
        convolve<double>(found.backward, found.outputs.size() / 4, coords.size() / 4, in, out);
      }
    }
  }
}

TEST(pairs_of_dilated_and_uneven_kernels_are_those_that_meet) {
  Random random(4);
  const Buffer<int64_t> coords = random_voxels(random, kShape, 1500);
  SparseGeometry geometry{{2, 3, 4}, {1, 3, 2}, {2, 0, 1}, {2, 1, 3}, {6, 20, 20}, {}};
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t extent = geometry.dilation[axis] * (geometry.kernel[axis] - 1) + 1;
    geometry.out_shape[axis] = (kShape[axis] + 2 * geometry.padding[axis] - extent) / geometry.stride[axis] + 1;
  }
  const Strided found = strided_pairs({run_whole}, geometry, coords);
  check_pairs(geometry, found.forward, coords, found.outputs);
}

TEST(outputs_rise) {
  Random random(5);
  const SparseGeometry geometry = strided(kShape, kThree, 2, 1);
  const Strided found = strided_pairs({run_whole}, geometry, random_voxels(random, kShape, 1500));
  int64_t before = -1;
  for (int64_t i = 0; i < found.outputs.size() / 4; ++i) {
    const int64_t key = cell_key(geometry.out_shape, found.outputs.data() + 4 * i);
    CHECK(key > before);
    before = key;
  }
}

// Keys of all sizes up to the limit: cells of grids of 2^40 cells, in the highest sample.
TEST(pairs_of_far_voxels_are_those_that_meet) {
  const int64_t shape[] = {1 << 10, 1 << 15, (1 << 15) - 1};
  const int64_t last = kSampleLimit - 1;
  const Buffer<int64_t> coords{last, 1023, 32767, 32766, 0, 0,   0,     0,     last, 1023, 32767, 32765,
                               0,    0,    1,     0,     1, 511, 16384, 16383, 1,    512,  16384, 16383};
  const SparseGeometry same = submanifold(shape, kThree, 1), halving = strided(shape, kThree, 2, 1);
  const FoundPairs found = find_submanifold_pairs({run_whole}, {}, same, {coords.data(), 6});
  const Pairs pairs = listed({run_whole}, same, found, PairTargets::kOutputs);
  CHECK(found.num_pairs == 6 + 3 * 2);
  check_pairs(same, pairs, coords, coords);
  const Strided down = strided_pairs({run_whole}, halving, coords);
  check_pairs(halving, down.forward, coords, down.outputs);
}

TEST(searches_name_voxels_outside_and_repeated_ones) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max(), kLeast = std::numeric_limits<int64_t>::min();
  const SparseGeometry geometry = submanifold(kShape, kThree, 1), halving = strided(kShape, kThree, 2, 1);
  const auto check_third = [&](const Buffer<int64_t>& coords) {
    CHECK(find_submanifold_pairs({run_whole}, {}, geometry, {coords.data(), 3}).bad_voxel == 2);
    CHECK(find_strided_pairs({run_whole}, {}, halving, {coords.data(), 3}).bad_voxel == 2);
  };
  for (const int64_t bad : {int64_t{-1}, int64_t{20}, kMost, kLeast}) {
    check_third({0, 0, 0, 0, 1, 5, 19, 19, 0, 1, bad, 2});
  }
  for (const int64_t bad : {int64_t{-1}, kSampleLimit, kMost, kLeast}) {
    check_third({0, 0, 0, 0, 1, 5, 19, 19, bad, 1, 1, 2});
  }
  check_third({0, 1, 2, 3, 0, 1, 2, 4, 0, 1, 2, 3});
}

}  // namespace
}  // namespace perception::testing
