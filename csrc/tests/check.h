// What the tests of the CPU kernels share: checks, memory without slack, random numbers and threads.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "include/executor.h"

namespace perception::testing {

struct Test {
  const char* name;
  void (*body)();
};

std::vector<Test>& tests();
bool add_test(const char* name, void (*body)());

// Every file defines its tests with this; main() runs them all.
#define TEST(name)                                                             \
  static void name();                                                          \
  [[maybe_unused]] static const bool name##_is_listed = add_test(#name, name); \
  static void name()

#define CHECK(condition)                                                                                   \
  do {                                                                                                     \
    if (!(condition)) throw std::runtime_error(__FILE__ ":" + std::to_string(__LINE__) + ": " #condition); \
  } while (false)

// What memory holds before a kernel writes to it: another pattern in each run, so that results that still hold some of
// it differ.
unsigned char& garbage();

// Numbers in memory of their own that ends where they end, so that a sanitizer sees one access too many; null where
// there are none, as torch's are.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count) : data_(count > 0 ? new T[static_cast<size_t>(count)] : nullptr), count_(count) {
    if (count > 0) std::memset(static_cast<void*>(data_.get()), garbage(), static_cast<size_t>(count) * sizeof(T));
  }
  Buffer(std::initializer_list<T> values) : Buffer(static_cast<int64_t>(values.size())) {
    std::copy(values.begin(), values.end(), data());
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T* begin() { return data(); }
  T* end() { return data() + count_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + count_; }
  int64_t size() const { return count_; }
  T& operator[](int64_t i) { return data_[static_cast<size_t>(i)]; }
  const T& operator[](int64_t i) const { return data_[static_cast<size_t>(i)]; }

 private:
  std::unique_ptr<T[]> data_;
  int64_t count_;
};

// More numbers than fit the machine's memory; those that nobody writes to are 0 and take no room.
template <typename T>
class Expanse {
 public:
  explicit Expanse(int64_t count) : bytes_(static_cast<size_t>(count) * sizeof(T)) {
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) throw std::runtime_error("no address space for " + std::to_string(bytes_) + " bytes");
  }
  Expanse(const Expanse&) = delete;
  ~Expanse() { munmap(memory_, bytes_); }
  T* data() { return static_cast<T*>(memory_); }
  T& operator[](int64_t i) { return data()[i]; }

 private:
  size_t bytes_;
  void* memory_;
};

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}

  int64_t whole(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }
  double real(double low, double high) { return std::uniform_real_distribution<double>(low, high)(engine_); }
  bool chance(double share) { return real(0, 1) < share; }

  template <typename T>
  Buffer<T> reals(int64_t count, double low, double high) {
    Buffer<T> values(count);
    for (T& value : values) value = static_cast<T>(real(low, high));
    return values;
  }

  Buffer<int64_t> wholes(int64_t count, int64_t low, int64_t high) {
    Buffer<int64_t> values(count);
    for (int64_t& value : values) value = whole(low, high);
    return values;
  }

  // Puts what no sensor should send among the numbers.
  template <typename T>
  void spoil(Buffer<T>& values, double share) {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    const T strange[] = {static_cast<T>(kInfinity),
                         static_cast<T>(-kInfinity),
                         std::numeric_limits<T>::quiet_NaN(),
                         static_cast<T>(1e30),
                         static_cast<T>(-1e30),
                         std::numeric_limits<T>::max(),
                         std::numeric_limits<T>::lowest(),
                         std::numeric_limits<T>::denorm_min(),
                         static_cast<T>(-0.0),
                         static_cast<T>(9.3e18),
                         static_cast<T>(-2.2e9)};
    for (T& value : values) {
      if (chance(share)) value = strange[whole(0, static_cast<int64_t>(std::size(strange)) - 1)];
    }
  }

 private:
  std::mt19937 engine_;
};

// Splits work where torch would not, so that little work has many ranges: more than threads, of uneven length, shorter
// than the grain. Thread t takes every kThreads-th range.
template <int kThreads>
void run_split(int64_t count, int64_t, Executor::Body body, void* context) {
  if (count <= 0) return;
  const int64_t ranges = std::min<int64_t>(count, 3 * kThreads - 1);
  const auto work = [=](int64_t thread) {
    for (int64_t range = thread; range < ranges; range += kThreads) {
      body(count * range / ranges, count * (range + 1) / ranges, context);
    }
  };
  std::vector<std::thread> threads;
  for (int64_t thread = 1; thread < kThreads; ++thread) threads.emplace_back(work, thread);
  work(0);
  for (std::thread& thread : threads) thread.join();
}

inline void run_whole(int64_t count, int64_t, Executor::Body body, void* context) {
  if (count > 0) body(0, count, context);
}

// The bytes of results; NaN is NaN, whatever its bits.
template <typename T>
void append(std::string* bytes, const Buffer<T>& values) {
  for (T value : values) {
    if constexpr (std::is_floating_point_v<T>) {
      if (std::isnan(value)) value = std::numeric_limits<T>::quiet_NaN();
    }
    bytes->append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
}

template <typename... Buffers>
std::string bytes_of(const Buffers&... buffers) {
  std::string bytes;
  (append(&bytes, buffers), ...);
  return bytes;
}

// Adds results to what the test leaves behind to be compared with those of other instruction sets.
void keep(const std::string& results);

// Calls run(executor) with one thread and with several, over different garbage; the results, which it returns, must
// be the same.
template <typename Run>
std::string on_threads(const Run& run) {
  garbage() = 0xA5;
  const std::string alone = run(Executor{run_whole});
  for (const Executor& executor : {Executor{run_split<2>}, Executor{run_split<4>}}) {
    garbage() ^= 0xFF;
    CHECK(run(executor) == alone);
  }
  return alone;
}

// The same, and the results must not depend on the instruction set either.
template <typename Run>
void steady(const Run& run) {
  keep(on_threads(run));
}

// Numbers of rows that leave loops at every place: none, one, around the blocks and tasks of the kernels.
inline std::vector<int64_t> row_counts() { return {0, 1, 2, 63, 64, 65, 130, 600}; }

// Numbers of channels that fill no vector, one, several and leave a rest.
inline std::vector<int64_t> channel_counts() { return {0, 1, 3, 16, 35, 64}; }

}  // namespace perception::testing
