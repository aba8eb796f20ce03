// Products of gathered rows, in tiles that stay in registers. Included once per instruction set, inside a namespace
// that has kVectorBytes, kTileRows and kTileVectors; the includer says which instructions the compiler may use.

// Reads and writes need no alignment.
template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
  static constexpr int64_t kLanes = kVectorBytes / sizeof(T);
};

// Where `kRows` rows of a product come from and go to: sums[r][column] += sum over i of left[r][i] * right[i][column].
template <typename T>
struct Product {
  const T* left[kTileRows];
  int64_t left_step;  // between left[r][i] and left[r][i + 1]
  T* sums[kTileRows];
};

// The right rows are either one after another or listed by number.
template <typename T>
struct RightRows {
  const T* rows;
  const int64_t* numbers;  // null: 0, 1, 2, ...
  int64_t count;
  int64_t columns;
};

// Products of `kRows` by `kVectors` vectors of columns, from `column` on. `left_numbers`: row i of the left side is
// left[r] + left_numbers[i] * left_step, null: left[r] + i * left_step.
template <typename T, int kRows, int kVectors>
void add_tile(const Product<T>& product, const int64_t* left_numbers, const RightRows<T>& right, int64_t column) {
  using Vector = typename VectorOf<T>::type;
  constexpr int64_t kLanes = VectorOf<T>::kLanes;
  Vector sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = *reinterpret_cast<const Vector*>(product.sums[r] + column + v * kLanes);
    }
  }
  for (int64_t i = 0; i < right.count; ++i) {
    const T* const row = right.rows + (right.numbers == nullptr ? i : right.numbers[i]) * right.columns + column;
    const int64_t at = (left_numbers == nullptr ? i : left_numbers[i]) * product.left_step;
    Vector values[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) values[v] = *reinterpret_cast<const Vector*>(row + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] += product.left[r][at] * values[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      *reinterpret_cast<Vector*>(product.sums[r] + column + v * kLanes) = sums[r][v];
    }
  }
}

// All columns of `kRows` rows: wide tiles, then narrow ones, then one column at a time.
template <typename T, int kRows>
void add_rows(const Product<T>& product, const int64_t* left_numbers, const RightRows<T>& right) {
  constexpr int64_t kLanes = VectorOf<T>::kLanes;
  int64_t column = 0;
  for (; column + kTileVectors * kLanes <= right.columns; column += kTileVectors * kLanes) {
    add_tile<T, kRows, kTileVectors>(product, left_numbers, right, column);
  }
  for (; column + kLanes <= right.columns; column += kLanes) {
    add_tile<T, kRows, 1>(product, left_numbers, right, column);
  }
  for (; column < right.columns; ++column) {
    for (int r = 0; r < kRows; ++r) {
      T sum = product.sums[r][column];
      for (int64_t i = 0; i < right.count; ++i) {
        const int64_t at = (left_numbers == nullptr ? i : left_numbers[i]) * product.left_step;
        const int64_t row = right.numbers == nullptr ? i : right.numbers[i];
        sum += product.left[r][at] * right.rows[row * right.columns + column];
      }
      product.sums[r][column] = sum;
    }
  }
}

// As add_rows for `num_rows` rows, at most kRows.
template <typename T, int kRows>
void add_some_rows(const Product<T>& product, int64_t num_rows, const int64_t* left_numbers,
                   const RightRows<T>& right) {
  if (num_rows == kRows) {
    add_rows<T, kRows>(product, left_numbers, right);
  } else if constexpr (kRows > 1) {
    add_some_rows<T, kRows - 1>(product, num_rows, left_numbers, right);
  }
}

// Asks for a row that is needed soon: gathered rows lie where no hardware expects them.
template <typename T>
void prefetch_row(const T* row, int64_t columns) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t column = 0; column < columns; column += kLine) __builtin_prefetch(row + column, 0, 2);
}

// result[targets[p]] += features[sources[p]] @ weights for each of `count` pairs; all targets differ.
template <typename T>
void multiply_pairs(const MatrixSizes& sizes, const T* features, const int64_t* sources, const T* weights,
                    const int64_t* targets, int64_t count, T* result) {
  const RightRows<T> right{weights, nullptr, sizes.in_channels, sizes.out_channels};
  Product<T> product{{}, 1, {}};
  for (int64_t pair = 0; pair < count; pair += kTileRows) {
    const int64_t num_rows = count - pair < kTileRows ? count - pair : kTileRows;
    for (int64_t r = 0; r < num_rows; ++r) {
      product.left[r] = features + sources[pair + r] * sizes.in_channels;
      product.sums[r] = result + targets[pair + r] * sizes.out_channels;
    }
    for (int64_t next = pair + 2 * kTileRows; next < count && next < pair + 3 * kTileRows; ++next) {
      prefetch_row(features + sources[next] * sizes.in_channels, sizes.in_channels);
    }
    add_some_rows<T, kTileRows>(product, num_rows, nullptr, right);
  }
}

// sum (in_channels, out_channels) += sum over `count` pairs of outer(features[sources[p]], gradient[targets[p]]). After
// them come `num_next` pairs that are needed next.
template <typename T>
void add_outer_products(const MatrixSizes& sizes, const T* features, const int64_t* sources, const T* gradient,
                        const int64_t* targets, int64_t count, int64_t num_next, T* sum) {
  const RightRows<T> right{gradient, targets, count, sizes.out_channels};
  Product<T> product{{}, sizes.in_channels, {}};
  int64_t next = count;
  for (int64_t channel = 0; channel < sizes.in_channels; channel += kTileRows) {
    const int64_t left = sizes.in_channels - channel;
    const int64_t num_rows = left < kTileRows ? left : kTileRows;
    for (int64_t r = 0; r < num_rows; ++r) {
      product.left[r] = features + channel + r;
      product.sums[r] = sum + (channel + r) * sizes.out_channels;
    }
    for (int64_t share = num_next * num_rows / sizes.in_channels + 1; share > 0 && next < count + num_next; --share) {
      prefetch_row(features + sources[next] * sizes.in_channels, sizes.in_channels);
      prefetch_row(gradient + targets[next++] * sizes.out_channels, sizes.out_channels);
    }
    add_some_rows<T, kTileRows>(product, num_rows, sources, right);
  }
}

template <typename T>
constexpr Tiles<T> kTiles{multiply_pairs<T>, add_outer_products<T>};
