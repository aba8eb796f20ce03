#include "ops/box_iou_rotated.h"
#include "ops/nms.h"
#include "ops/points_in_boxes.h"
#include "tests/check.h"

namespace perception::testing {
namespace {

constexpr int64_t kColumns = 7;

template <typename T>
Buffer<T> random_boxes(Random& random, int64_t count, double half_m) {
  Buffer<T> boxes = random.reals<T>(count * kColumns, -half_m, half_m);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t size = 3; size < 6; ++size) boxes[i * kColumns + size] = static_cast<T>(random.real(0.5, 5));
  }
  return boxes;
}

template <typename T>
void overlap_boxes(bool volume, double spoiled) {
  Random random(1);
  for (const int64_t num_a : row_counts()) {
    for (const int64_t num_b : {int64_t{0}, int64_t{1}, int64_t{65}}) {
      Buffer<T> a = random_boxes<T>(random, num_a, 8), b = random_boxes<T>(random, num_b, 8);
      random.spoil(a, spoiled);
      random.spoil(b, spoiled);
      const BoxPairs pairs{num_a, num_b, kColumns, volume};
      steady([&](const Executor& executor) {
        Buffer<T> iou(num_a * num_b), workspace(box_iou_rotated_workspace(pairs));
        box_iou_rotated(executor, pairs, a.data(), b.data(), iou.data(), workspace.data());
        for (const T value : iou) CHECK(value >= 0 && value <= 1);
        return bytes_of(iou);
      });
    }
  }
}

TEST(box_iou_rotated_is_between_0_and_1) {
  for (const bool volume : {false, true}) {
    overlap_boxes<float>(volume, 0);
    overlap_boxes<double>(volume, 0);
  }
}

TEST(box_iou_rotated_of_strange_numbers_is_between_0_and_1) {
  for (const bool volume : {false, true}) {
    overlap_boxes<float>(volume, 0.1);
    overlap_boxes<double>(volume, 0.1);
  }
}

TEST(box_iou_rotated_of_a_box_with_itself_is_1) {
  Random random(2);
  const Buffer<double> boxes = random_boxes<double>(random, 40, 20);
  Buffer<double> iou(1600), workspace(box_iou_rotated_workspace({40, 40, kColumns, true}));
  box_iou_rotated({run_whole}, {40, 40, kColumns, true}, boxes.data(), boxes.data(), iou.data(), workspace.data());
  for (int64_t i = 0; i < 40; ++i) CHECK(iou[41 * i] > 1 - 1e-9);
}

template <typename T>
void suppress_rotated(double half_m, double spoiled) {
  Random random(3);
  for (const int64_t count : row_counts()) {
    Buffer<T> boxes = random_boxes<T>(random, count, half_m);
    random.spoil(boxes, spoiled);
    steady([&](const Executor& executor) {
      Buffer<bool> kept(count);
      Buffer<char> workspace(nms_rotated_workspace(count, sizeof(T)));
      nms_rotated(executor, boxes.data(), count, kColumns, 0.2, kept.data(), workspace.data());
      CHECK(count == 0 || kept[0]);
      return bytes_of(kept);
    });
  }
}

TEST(nms_rotated_keeps_the_first) {
  suppress_rotated<float>(30, 0);
  suppress_rotated<double>(3, 0);
}

TEST(nms_rotated_of_strange_numbers_keeps_the_first) {
  suppress_rotated<float>(10, 0.1);
  suppress_rotated<double>(10, 0.1);
}

TEST(nms_circle_keeps_what_is_apart) {
  Random random(4);
  for (const double spoiled : {0.0, 0.2}) {
    for (const int64_t count : row_counts()) {
      Buffer<double> centers = random.reals<double>(2 * count, -10, 10), scores = random.reals<double>(count, 0, 1);
      Buffer<int64_t> order(count);
      for (int64_t i = 0; i < count; ++i) order[i] = count - 1 - i;
      random.spoil(centers, spoiled);
      random.spoil(scores, spoiled);
      const CircleCandidates candidates{centers.data(), scores.data(), order.data(), count};
      steady([&](const Executor& executor) {
        Buffer<bool> kept(count);
        Buffer<char> workspace(nms_circle_workspace(count));
        nms_circle(executor, candidates, 1.5, kept.data(), workspace.data());
        for (int64_t i = 0; i < count; ++i) {
          const double x = centers[2 * order[i]], y = centers[2 * order[i] + 1];
          bool expected = std::isfinite(x) && std::isfinite(y) && !std::isnan(scores[order[i]]);
          for (int64_t j = 0; j < i; ++j) {
            const double dx = x - centers[2 * order[j]], dy = y - centers[2 * order[j] + 1];
            expected = expected && !(kept[j] && std::sqrt(dx * dx + dy * dy) <= 1.5);
          }
          CHECK(kept[i] == expected);
        }
        return bytes_of(kept);
      });
    }
  }
}

template <typename T>
void find_points(int64_t num_points, int64_t num_boxes, double spoiled) {
  Random random(5);
  Buffer<T> points = random.reals<T>(4 * num_points, -10, 10);
  Buffer<T> boxes = random_boxes<T>(random, num_boxes, 10);
  random.spoil(points, spoiled);
  random.spoil(boxes, spoiled);
  const PointsAndBoxes<T> input{points.data(), boxes.data(), num_points, 4, num_boxes, kColumns};
  steady([&](const Executor& executor) {
    Buffer<int64_t> first(num_points), counts(num_boxes);
    Buffer<char> workspace(points_in_boxes_workspace(num_boxes));
    points_in_boxes(executor, input, first.data(), workspace.data());
    count_points_in_boxes(executor, input, counts.data(), workspace.data());
    Buffer<int64_t> expected_counts(num_boxes);
    std::fill(expected_counts.begin(), expected_counts.end(), 0);
    for (int64_t i = 0; i < num_points; ++i) {
      int64_t expected = -1;
      for (int64_t m = num_boxes - 1; m >= 0; --m) {
        const T* const point = points.data() + 4 * i;
        if (!holds(solid_box(boxes.data() + m * kColumns), static_cast<double>(point[0]), static_cast<double>(point[1]),
                   static_cast<double>(point[2]))) {
          continue;
        }
        expected = m;
        ++expected_counts[m];
      }
      CHECK(first[i] == expected);
    }
    CHECK(std::equal(counts.begin(), counts.end(), expected_counts.begin()));
    return bytes_of(first, counts);
  });
}

TEST(points_in_boxes_finds_and_counts_what_the_formula_says) {
  for (const int64_t num_points : row_counts()) {
    for (const int64_t num_boxes : {int64_t{0}, int64_t{1}, int64_t{40}}) {
      for (const double spoiled : {0.0, 0.1}) {
        find_points<float>(num_points, num_boxes, spoiled);
        find_points<double>(num_points, num_boxes, spoiled);
      }
    }
  }
}

}  // namespace
}  // namespace perception::testing
