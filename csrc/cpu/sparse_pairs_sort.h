// Stable distribution of items by a small number, and a sort made of it; on several threads, with one result.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "include/executor.h"

namespace perception {

// Memory that is written before it is read.
template <typename T>
std::unique_ptr<T[]> uninitialised(int64_t count) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(count)]);
}

// Places for items that go by a value below `num_values`, and among equals by their order. Chunks of at least
// `least_items` first count their values; then each has places of its own.
class Places {
 public:
  Places(const Executor& executor, int64_t num_items, int64_t num_values, int64_t least_items)
      : executor_(executor), num_items_(num_items), num_values_(num_values) {
    num_chunks_ = std::clamp<int64_t>(num_items / least_items, 1, kMostChunks);
    per_chunk_ = (num_items + num_chunks_ - 1) / num_chunks_;
    numbers_.assign(static_cast<size_t>(num_chunks_ * num_values), 0);
  }

  // Calls visit(numbers, begin, end) for each chunk of items. Before `number` is called the numbers (num_values) are
  // for counting, afterwards they say where the chunk's next item of each value goes.
  template <typename Visit>
  void each_chunk(const Visit& visit) {
    executor_.parallel_for(num_chunks_, 1, [&](int64_t first, int64_t last) {
      for (int64_t chunk = first; chunk < last; ++chunk) {
        const int64_t begin = chunk * per_chunk_;
        visit(numbers_.data() + chunk * num_values_, std::min(begin, num_items_),
              std::min(begin + per_chunk_, num_items_));
      }
    });
  }

  // Makes places of the counts, calls starts(value, first place) for each value and gives the number of places.
  template <typename Starts>
  int64_t number(const Starts& starts) {
    int64_t next = 0;
    for (int64_t value = 0; value < num_values_; ++value) {
      starts(value, next);
      for (int64_t chunk = 0; chunk < num_chunks_; ++chunk) {
        next += std::exchange(numbers_[static_cast<size_t>(chunk * num_values_ + value)], next);
      }
    }
    return next;
  }

 private:
  static constexpr int64_t kMostChunks = 64;

  const Executor& executor_;
  int64_t num_items_;
  int64_t num_values_;
  int64_t per_chunk_;
  int64_t num_chunks_;
  std::vector<int64_t> numbers_;
};

// Fewer are sorted sooner than several threads have met after every step.
constexpr int64_t kLeastItemsSorted = int64_t{1} << 14;

struct Keyed {
  int64_t key;
  int64_t number;
};

// Sorts by key, none of which is negative, and keeps the order of equal ones. Digit by digit from the last, to and fro
// between `items`, which has the result, and `spare` of the same size.
inline void sort_by_key(const Executor& executor, int64_t count, std::unique_ptr<Keyed[]>& items,
                        std::unique_ptr<Keyed[]> spare) {
  constexpr int kMostBits = 10;  // of a digit: the places that are written to at once stay in the cache
  int64_t used = 0;
  for (int64_t i = 0; i < count; ++i) used |= items[i].key;
  int bits = 0;
  while (used >> bits != 0) ++bits;
  for (int num_digits = (bits + kMostBits - 1) / kMostBits, shift = 0; num_digits > 0; --num_digits) {
    const int width = (bits - shift) / num_digits;
    const auto digit = [=](const Keyed& item) { return item.key >> shift & ((int64_t{1} << width) - 1); };
    Places places(executor, count, int64_t{1} << width, kLeastItemsSorted);
    places.each_chunk([&](int64_t* counts, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++counts[digit(items[i])];
    });
    places.number([](int64_t, int64_t) {});
    places.each_chunk([&](int64_t* next, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) spare[next[digit(items[i])]++] = items[i];
    });
    items.swap(spare);
    shift += width;
  }
}

}  // namespace perception
