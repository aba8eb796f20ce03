#include <numeric>
#include <utility>

#include "cpu/sparse_pairs_search.h"

namespace perception {
namespace {

// Elements of the kernel along one axis through which an input's coordinate meets an output's, each with that output's.
class AxisMeetings {
 public:
  using Place = std::pair<int64_t, int64_t>;

  void find(const SparseGeometry& geometry, int axis, int64_t coordinate) {
    const int64_t stride = geometry.stride[axis], dilation = geometry.dilation[axis];
    int64_t output = (coordinate + geometry.padding[axis]) / stride;
    int64_t beyond = (coordinate + geometry.padding[axis]) % stride;
    places_.resize(static_cast<size_t>(geometry.kernel[axis]));
    size_ = 0;
    for (int64_t element = 0; element < geometry.kernel[axis] && output >= 0; ++element) {
      places_[size_] = {element, output};
      size_ += beyond == 0 && output < geometry.out_shape[axis];
      output -= dilation / stride;
      beyond -= dilation % stride;
      if (beyond < 0) {
        beyond += stride;
        --output;
      }
    }
  }

  const Place* begin() const { return places_.data(); }
  const Place* end() const { return places_.data() + size_; }
  size_t size() const { return size_; }

 private:
  std::vector<Place> places_;
  size_t size_ = 0;
};

// Calls visit(item, sample, meetings along z, y and x) for the sorted items [begin, end).
template <typename Visit>
void visit_outputs(const SparseGeometry& geometry, const Keyed* items, int64_t begin, int64_t end, const Visit& visit) {
  AxisMeetings axes[3];
  visit_rows(geometry.in_shape, items, begin, end, [&](const Row& row) {
    axes[0].find(geometry, 0, row.coords[1]);
    axes[1].find(geometry, 1, row.coords[2]);
    for (int64_t item = row.begin; item < row.end; ++item) {
      axes[2].find(geometry, 2, items[item].key - row.key);
      visit(item, row.coords[0], axes);
    }
  });
}

// Lists the meetings of the sorted voxels, and the key of each one's output with the meeting's number.
std::unique_ptr<Keyed[]> meet_outputs(const Executor& executor, const Keyed* voxels, int64_t num_voxels,
                                      PairSearch* search, int64_t* num_pairs) {
  const SparseGeometry& geometry = search->geometry;
  const int64_t *const kernel = geometry.kernel, *const shape = geometry.out_shape;
  std::vector<int64_t> begins(static_cast<size_t>(num_voxels + 1));
  executor.parallel_for(num_voxels, kVoxelsPerTask, [&](int64_t begin, int64_t end) {
    visit_outputs(geometry, voxels, begin, end, [&](int64_t item, int64_t, const AxisMeetings* axes) {
      begins[static_cast<size_t>(item + 1)] = static_cast<int64_t>(axes[0].size() * axes[1].size() * axes[2].size());
    });
  });
  std::partial_sum(begins.begin(), begins.end(), begins.begin());
  *num_pairs = begins.back();
  std::unique_ptr<Keyed[]> keys = uninitialised<Keyed>(*num_pairs);
  search->outputs_of = uninitialised<Meeting>(*num_pairs);
  search->by_input.resize(static_cast<size_t>(num_voxels));
  executor.parallel_for(num_voxels, kVoxelsPerTask, [&](int64_t begin, int64_t end) {
    int64_t next = begins[static_cast<size_t>(begin)];
    visit_outputs(geometry, voxels, begin, end, [&](int64_t item, int64_t sample, const AxisMeetings* axes) {
      const int64_t first = next, voxel = voxels[item].number;
      for (const auto& [z_place, z] : axes[0]) {
        for (const auto& [y_place, y] : axes[1]) {
          const int64_t element = (z_place * kernel[1] + y_place) * kernel[2];
          const int64_t key = ((sample * shape[0] + z) * shape[1] + y) * shape[2];
          for (const auto& [x_place, x] : axes[2]) {
            keys[next] = {key + x, next};
            search->outputs_of[next++] = {static_cast<int32_t>(element + x_place), static_cast<int32_t>(voxel)};
          }
        }
      }
      Meeting* const meetings = search->outputs_of.get();
      search->by_input[static_cast<size_t>(voxel)] = {meetings + first, meetings + next};
    });
  });
  return keys;
}

// Numbers the outputs in the order of the sorted keys. Each meeting gets its output for its voxel, which goes to the
// output's list.
void number_outputs(const Executor& executor, const Keyed* keys, int64_t num_pairs, PairSearch* search) {
  const auto is_first = [=](int64_t i) { return i == 0 || keys[i].key != keys[i - 1].key; };
  Places places(executor, num_pairs, 1, kLeastItemsSorted);
  places.each_chunk([&](int64_t* count, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) *count += is_first(i);
  });
  const size_t num_outputs = static_cast<size_t>(places.number([](int64_t, int64_t) {}));
  search->outputs.resize(num_outputs);
  search->by_output.resize(num_outputs);
  search->inputs_of = uninitialised<Meeting>(num_pairs);
  places.each_chunk([&](int64_t* next, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Meeting* const here = search->inputs_of.get() + i;
      if (is_first(i)) {
        const size_t output = static_cast<size_t>((*next)++);
        search->outputs[output] = {keys[i].key, static_cast<int64_t>(output)};
        search->by_output[output].first = here;
        if (output > 0) search->by_output[output - 1].last = here;
      }
      Meeting& meeting = search->outputs_of[keys[i].number];
      search->inputs_of[i] = meeting;
      meeting.partner = static_cast<int32_t>(*next - 1);
    }
  });
  if (num_outputs > 0) search->by_output.back().last = search->inputs_of.get() + num_pairs;
}

}  // namespace

FoundPairs find_strided_pairs(const Executor& executor, const Scratch&, const SparseGeometry& geometry,
                              const SparseVoxels& voxels) {
  const SortedVoxels sorted = sort_voxels(executor, geometry.in_shape, voxels, 0);
  if (sorted.bad_voxel >= 0) return {0, 0, sorted.bad_voxel, nullptr};
  const auto search = std::make_shared<PairSearch>();
  search->geometry = geometry;
  int64_t num_pairs;
  std::unique_ptr<Keyed[]> keys = meet_outputs(executor, sorted.items.get(), voxels.count, search.get(), &num_pairs);
  sort_by_key(executor, num_pairs, keys, uninitialised<Keyed>(num_pairs));
  number_outputs(executor, keys.get(), num_pairs, search.get());
  return {num_pairs, static_cast<int64_t>(search->outputs.size()), -1, search};
}

}  // namespace perception
