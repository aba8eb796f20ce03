#include "ops/points_in_boxes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "include/vectorize.h"

namespace perception {
namespace {

constexpr int64_t kPointsPerTask = 8192;
constexpr int64_t kPointsAtOnce = 512;
constexpr int64_t kBoxesPerBlock = 1024;
constexpr int32_t kSlabs = 256;  // per axis
constexpr int64_t kAxes = 3;

int64_t num_words(int64_t num_boxes) { return (num_boxes + 63) / 64; }

// The axis-aligned box around a box, a little larger than it is.
struct Bounds {
  double low[kAxes];
  double high[kAxes];

  explicit Bounds(const SolidBox& box) {
    const double length = std::max(box.half_length, 0.0), width = std::max(box.half_width, 0.0);
    const double centre[kAxes] = {box.x, box.y, box.z};
    const double reach[kAxes] = {std::fabs(box.cos) * length + std::fabs(box.sin) * width + 1e-6 * (length + width),
                                 std::fabs(box.sin) * length + std::fabs(box.cos) * width + 1e-6 * (length + width),
                                 std::max(box.half_height, 0.0) * (1 + 1e-6)};
    for (int64_t axis = 0; axis < kAxes; ++axis) {
      low[axis] = centre[axis] - reach[axis];
      high[axis] = centre[axis] + reach[axis];
    }
  }

  bool is_finite(int64_t axis) const { return std::isfinite(low[axis]) && std::isfinite(high[axis]); }
};

// Cuts an axis into slabs. What is NaN or lies below counts to the first, what lies above to the last. A larger value
// never falls into an earlier slab, whatever rounding does.
struct Ruler {
  double low = 0;
  double scale = 0;  // slabs per metre

  PERCEPTION_INLINE int32_t slab(double value) const {
    double place = (value - low) * scale;
    place = place > 0 ? place : 0;
    return static_cast<int32_t>(place < kSlabs - 1 ? place : kSlabs - 1);
  }
};

template <typename T>
struct PointRows {
  const T* points;
  int64_t columns;
  int64_t count;
};

template <typename T>
PERCEPTION_MULTIVERSION void find_slabs(const PointRows<T>& rows, const Ruler* rulers,
                                        int32_t (*slabs)[kPointsAtOnce]) {
  for (int64_t axis = 0; axis < kAxes; ++axis) {
    const Ruler ruler = rulers[axis];
    for (int64_t i = 0; i < rows.count; ++i)
      slabs[axis][i] = ruler.slab(static_cast<double>(rows.points[i * rows.columns + axis]));
  }
}

// A run of boxes and, for each slab of each axis, a bit for every box that may hold a point there. The boxes that may
// hold a point are the bits that its three slabs have in common.
class BoxBlock {
 public:
  template <typename T>
  BoxBlock(const PointsAndBoxes<T>& input, int64_t first, SolidBox* boxes, uint64_t* masks)
      : first_(first),
        num_boxes_(std::min(kBoxesPerBlock, input.num_boxes - first)),
        num_words_(num_words(num_boxes_)),
        boxes_(boxes),
        masks_(masks) {
    for (int64_t m = 0; m < num_boxes_; ++m) boxes_[m] = solid_box(input.boxes + (first + m) * input.box_columns);
    for (int64_t axis = 0; axis < kAxes; ++axis) mark(axis);
  }

  // Calls visit(i, box) for each point of the rows and box that holds it, boxes rising, until it returns false.
  template <typename T, typename Visit>
  void for_each_held(const PointRows<T>& rows, const Visit& visit) const {
    int32_t slabs[kAxes][kPointsAtOnce];
    find_slabs(rows, rulers_, slabs);
    for (int64_t i = 0; i < rows.count; ++i) {
      const T* const point = rows.points + i * rows.columns;
      const uint64_t* const in_x = mask(0, slabs[0][i]);
      const uint64_t* const in_y = mask(1, slabs[1][i]);
      const uint64_t* const in_z = mask(2, slabs[2][i]);
      bool go_on = true;
      for (int64_t word = 0; word < num_words_ && go_on; ++word) {
        for (uint64_t bits = in_x[word] & in_y[word] & in_z[word]; bits != 0 && go_on; bits &= bits - 1) {
          const int64_t box = word * 64 + __builtin_ctzll(bits);
          if (holds(boxes_[box], static_cast<double>(point[0]), static_cast<double>(point[1]),
                    static_cast<double>(point[2])))
            go_on = visit(i, first_ + box);
        }
      }
    }
  }

 private:
  uint64_t* mask(int64_t axis, int32_t slab) const { return masks_ + (axis * kSlabs + slab) * num_words_; }

  void mark(int64_t axis) {
    std::fill_n(mask(axis, 0), kSlabs * num_words_, uint64_t{0});
    double low = std::numeric_limits<double>::infinity(), high = -low;
    for (int64_t m = 0; m < num_boxes_; ++m) {
      const Bounds bounds(boxes_[m]);
      if (!bounds.is_finite(axis)) continue;
      low = std::min(low, bounds.low[axis]);
      high = std::max(high, bounds.high[axis]);
    }
    const double width = (high - low) / (kSlabs - 3);  // an empty slab on either side, and one for what rounding adds
    if (width > 1e-30 && width < 1e30) rulers_[axis] = {low - width, 1 / width};
    for (int64_t m = 0; m < num_boxes_; ++m) {
      const Bounds bounds(boxes_[m]);
      const bool everywhere = !bounds.is_finite(axis);
      const int32_t from = everywhere ? 0 : rulers_[axis].slab(bounds.low[axis]);
      const int32_t to = everywhere ? kSlabs - 1 : rulers_[axis].slab(bounds.high[axis]);
      for (int32_t slab = from; slab <= to; ++slab) mask(axis, slab)[m / 64] |= uint64_t{1} << (m % 64);
    }
  }

  int64_t first_;
  int64_t num_boxes_;
  int64_t num_words_;
  SolidBox* boxes_;
  uint64_t* masks_;  // (axis, slab, word)
  Ruler rulers_[kAxes];
};

int64_t words_per_block(int64_t num_boxes) { return kAxes * kSlabs * num_words(std::min(num_boxes, kBoxesPerBlock)); }

template <typename T>
std::vector<BoxBlock> make_blocks(const PointsAndBoxes<T>& input, void* workspace) {
  SolidBox* const boxes = static_cast<SolidBox*>(workspace);
  uint64_t* const masks = reinterpret_cast<uint64_t*>(boxes + input.num_boxes);
  std::vector<BoxBlock> blocks;
  for (int64_t first = 0; first < input.num_boxes; first += kBoxesPerBlock)
    blocks.emplace_back(input, first, boxes + first, masks + first / kBoxesPerBlock * words_per_block(input.num_boxes));
  return blocks;
}

// Calls body(begin, rows) on the points [begin, end), so many at a time as fit.
template <typename T, typename Body>
void in_portions(const PointsAndBoxes<T>& input, int64_t begin, int64_t end, const Body& body) {
  for (; begin < end; begin += kPointsAtOnce)
    body(begin, PointRows<T>{input.points + begin * input.point_columns, input.point_columns,
                             std::min(kPointsAtOnce, end - begin)});
}

}  // namespace

int64_t points_in_boxes_workspace(int64_t num_boxes) {
  const int64_t num_blocks = (num_boxes + kBoxesPerBlock - 1) / kBoxesPerBlock;
  return num_boxes * static_cast<int64_t>(sizeof(SolidBox)) +
         num_blocks * words_per_block(num_boxes) * static_cast<int64_t>(sizeof(uint64_t));
}

template <typename T>
void points_in_boxes(const Executor& executor, const PointsAndBoxes<T>& input, int64_t* first, void* workspace) {
  const std::vector<BoxBlock> blocks = make_blocks(input, workspace);
  executor.parallel_for(input.num_points, kPointsPerTask, [&](int64_t begin, int64_t end) {
    std::fill(first + begin, first + end, int64_t{-1});
    for (const BoxBlock& block : blocks) {
      in_portions(input, begin, end, [&](int64_t start, const PointRows<T>& rows) {
        block.for_each_held(rows, [&](int64_t i, int64_t box) {
          if (first[start + i] < 0) first[start + i] = box;
          return false;
        });
      });
    }
  });
}

template <typename T>
void count_points_in_boxes(const Executor& executor, const PointsAndBoxes<T>& input, int64_t* counts, void* workspace) {
  const std::vector<BoxBlock> blocks = make_blocks(input, workspace);
  std::fill(counts, counts + input.num_boxes, int64_t{0});
  executor.parallel_for(input.num_points, kPointsPerTask, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> held(static_cast<size_t>(input.num_boxes));
    for (const BoxBlock& block : blocks) {
      in_portions(input, begin, end, [&](int64_t, const PointRows<T>& rows) {
        block.for_each_held(rows, [&](int64_t, int64_t box) {
          ++held[box];
          return true;
        });
      });
    }
    for (int64_t m = 0; m < input.num_boxes; ++m) {  // whole numbers add up in any order
      if (held[m] > 0) __atomic_fetch_add(counts + m, held[m], __ATOMIC_RELAXED);
    }
  });
}

#define INSTANTIATE(T)                                                                          \
  template void points_in_boxes<T>(const Executor&, const PointsAndBoxes<T>&, int64_t*, void*); \
  template void count_points_in_boxes<T>(const Executor&, const PointsAndBoxes<T>&, int64_t*, void*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace perception
