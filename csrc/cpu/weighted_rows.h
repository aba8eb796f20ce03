// Weighted sums of rows of channels, for ops that interpolate between pixels. All of it is compiled into the function
// that calls it, and gives the same bits with every instruction set.
#pragma once

#include <cstdint>

#include "include/vectorize.h"

namespace perception {

// As many numbers as fill 64 bytes, in one register or several, at any address.
template <typename T>
struct Lanes {
  static constexpr int64_t kBytes = 64;
  static constexpr int64_t kCount = kBytes / sizeof(T);
  typedef T Vector __attribute__((vector_size(kBytes), aligned(sizeof(T)), may_alias));
};

// Asks for memory before it is needed; any address will do.
template <typename T>
PERCEPTION_INLINE void prefetch(const T* first, int64_t count) {
  for (int64_t i = 0; i < count; i += Lanes<T>::kCount) __builtin_prefetch(first + i);
}

template <typename T>
struct WeightedRow {
  const T* row;
  T weight;
};

// Adds kVectors * 64 bytes of all rows in registers.
template <int kVectors, typename T>
PERCEPTION_INLINE void add_vectors(const WeightedRow<T>* rows, int64_t count, int64_t channel, T* output) {
  using Vector = typename Lanes<T>::Vector;
  Vector sum[kVectors] = {};
  for (int64_t i = 0; i < count; ++i) {
    const Vector* const values = reinterpret_cast<const Vector*>(rows[i].row + channel);
    for (int v = 0; v < kVectors; ++v) sum[v] += rows[i].weight * values[v];
  }
  for (int v = 0; v < kVectors; ++v) reinterpret_cast<Vector*>(output + channel)[v] = sum[v];
}

// output = the rows' sum, added up in their order.
template <typename T>
PERCEPTION_INLINE void add_rows(const WeightedRow<T>* rows, int64_t count, int64_t channels, T* output) {
  constexpr int64_t kLanes = Lanes<T>::kCount;
  int64_t channel = 0;
  for (; channel + 2 * kLanes <= channels; channel += 2 * kLanes) add_vectors<2>(rows, count, channel, output);
  for (; channel + kLanes <= channels; channel += kLanes) add_vectors<1>(rows, count, channel, output);
  for (; channel < channels; ++channel) {
    T sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += rows[i].weight * rows[i].row[channel];
    output[channel] = sum;
  }
}

// sum += scale * row.
template <typename T>
PERCEPTION_INLINE void add_scaled(const T* row, int64_t count, T scale, T* sum) {
  using Vector = typename Lanes<T>::Vector;
  int64_t i = 0;
  for (; i + Lanes<T>::kCount <= count; i += Lanes<T>::kCount) {
    *reinterpret_cast<Vector*>(sum + i) += scale * *reinterpret_cast<const Vector*>(row + i);
  }
  for (; i < count; ++i) sum[i] += scale * row[i];
}

// The sum of 2 * kHalf numbers: halves are added to one another, so that the steps stay in registers.
template <int64_t kHalf, typename T>
PERCEPTION_INLINE T fold(T* lanes) {
  for (int64_t lane = 0; lane < kHalf; ++lane) lanes[lane] += lanes[lane + kHalf];
  if constexpr (kHalf > 1) return fold<kHalf / 2>(lanes);
  return lanes[0];
}

// Adds scale * a to sum and gives a . b, summed up in as many partial sums as there are lanes.
template <typename T>
PERCEPTION_INLINE T dot_and_add(const T* a, const T* b, int64_t count, T scale, T* sum) {
  using Vector = typename Lanes<T>::Vector;
  constexpr int64_t kLanes = Lanes<T>::kCount;
  Vector products = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vector values = *reinterpret_cast<const Vector*>(a + i);
    products += values * *reinterpret_cast<const Vector*>(b + i);
    *reinterpret_cast<Vector*>(sum + i) += scale * values;
  }
  T partial[kLanes];
  *reinterpret_cast<Vector*>(partial) = products;
  for (int64_t lane = 0; i < count; ++i, ++lane) {
    partial[lane] += a[i] * b[i];
    sum[i] += scale * a[i];
  }
  return fold<kLanes / 2>(partial);
}

}  // namespace perception
