// Products of gathered rows, in tiles that stay in registers. Included once per instruction set, inside a namespace
// that has kVectorBytes, kTileRows and kTileVectors; the includer says which instructions the compiler may use.

// Reads and writes need no alignment.
template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
};

// A product is sums(r)[column] += sum over i < count of left(i)[r] * right(i)[column]; ask(i) fetches what is needed
// after it. This one is of gathered rows and a matrix.
template <typename T>
struct RowsProduct {
  const T* left_rows[kTileRows];
  T* sum_rows[kTileRows];
  const T* matrix;  // (count, columns)
  int64_t count;
  int64_t columns;

  struct Column {
    const T* const* rows;
    int64_t channel;
    T operator[](int r) const { return rows[r][channel]; }
  };
  Column left(int64_t i) const { return {left_rows, i}; }
  const T* right(int64_t i) const { return matrix + i * columns; }
  T* sums(int r) const { return sum_rows[r]; }
  void ask(int64_t) const {}
};

// Rows of a matrix that are listed by number.
template <typename T>
struct ListedRows {
  const T* rows;
  const int64_t* numbers;
  int64_t columns;

  const T* row(int64_t i) const { return rows + numbers[i] * columns; }
};

// This one is of some columns of listed rows and all of others.
template <typename T>
struct OuterProduct {
  ListedRows<T> lefts;  // from the first of the columns on
  ListedRows<T> rights;
  ListedRows<T> soons;
  T* sum;  // (columns of lefts, columns)
  int64_t count;
  int64_t columns;

  const T* left(int64_t i) const { return lefts.row(i); }
  const T* right(int64_t i) const { return rights.row(i); }
  T* sums(int r) const { return sum + r * columns; }
  void ask(int64_t i) const { __builtin_prefetch(soons.row(i), 0, 2); }
};

// `kRows` rows by `kVectors` vectors of columns, from `column` on. Unrolled from the start, or sums would go through
// memory.
template <typename Vector, int kVectors, int kRows, typename T, typename Product>
void add_tile(const Product& product, int64_t column) {
  constexpr int64_t kLanes = sizeof(Vector) / sizeof(T);
  Vector sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const T* const row = product.sums(r) + column;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[r][v] = *reinterpret_cast<const Vector*>(row + v * kLanes);
  }
  for (int64_t i = 0; i < product.count; ++i) {
    product.ask(i);
    const auto left = product.left(i);
    const T* const row = product.right(i) + column;
    Vector values[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) values[v] = *reinterpret_cast<const Vector*>(row + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] += left[r] * values[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    T* const row = product.sums(r) + column;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) *reinterpret_cast<Vector*>(row + v * kLanes) = sums[r][v];
  }
}

// All columns of `num_rows` rows, at most kRows: wide tiles, then narrow ones, then one column at a time.
template <typename T, int kRows, typename Product>
void add_rows(const Product& product, int64_t num_rows) {
  if constexpr (kRows > 1) {
    if (num_rows < kRows) return add_rows<T, kRows - 1>(product, num_rows);
  }
  using Vector = typename VectorOf<T>::type;
  constexpr int64_t kLanes = sizeof(Vector) / sizeof(T);
  int64_t column = 0;
  for (; column + kTileVectors * kLanes <= product.columns; column += kTileVectors * kLanes) {
    add_tile<Vector, kTileVectors, kRows, T>(product, column);
  }
  for (; column + kLanes <= product.columns; column += kLanes) add_tile<Vector, 1, kRows, T>(product, column);
  for (; column < product.columns; ++column) add_tile<T, 1, kRows, T>(product, column);
}

template <typename T>
constexpr int64_t kLine = 64 / sizeof(T);  // values in a line of the cache

// result[targets[p]] += features[sources[p]] @ weights for each of `count` pairs; all targets differ.
template <typename T>
void multiply_pairs(const MatrixSizes& sizes, const T* features, const int64_t* sources, const T* weights,
                    const int64_t* targets, int64_t count, T* result) {
  RowsProduct<T> product{{}, {}, weights, sizes.in_channels, sizes.out_channels};
  for (int64_t pair = 0; pair < count; pair += kTileRows) {
    const int64_t num_rows = count - pair < kTileRows ? count - pair : kTileRows;
    for (int64_t r = 0; r < num_rows; ++r) {
      product.left_rows[r] = features + sources[pair + r] * sizes.in_channels;
      product.sum_rows[r] = result + targets[pair + r] * sizes.out_channels;
    }
    for (int64_t next = pair + 2 * kTileRows; next < count && next < pair + 3 * kTileRows; ++next) {
      const T* const row = features + sources[next] * sizes.in_channels;
      for (int64_t channel = 0; channel < sizes.in_channels; channel += kLine<T>) {
        __builtin_prefetch(row + channel, 0, 2);
      }
    }
    add_rows<T, kTileRows>(product, num_rows);
  }
}

// sum (in_channels, out_channels) += sum over `count` pairs of outer(features[sources[p]], gradient[targets[p]]).
// `next_pairs`: how far after them come as many that are needed next.
template <typename T>
void add_outer_products(const MatrixSizes& sizes, const T* features, const int64_t* sources, const T* gradient,
                        const int64_t* targets, int64_t count, int64_t next_pairs, T* sum) {
  const int64_t left_lines = (sizes.in_channels + kLine<T> - 1) / kLine<T>;
  OuterProduct<T> product{{features, sources, sizes.in_channels},
                          {gradient, targets, sizes.out_channels},
                          {},
                          sum,
                          count,
                          sizes.out_channels};
  for (int64_t channel = 0; channel < sizes.in_channels; channel += kTileRows) {
    const int64_t left = sizes.in_channels - channel, line = channel / kTileRows;
    product.lefts.rows = features + channel;
    product.sum = sum + channel * sizes.out_channels;
    const bool of_features = line < left_lines;  // each tile asks for a line of every pair
    product.soons = of_features ? ListedRows<T>{features + line * kLine<T>, sources + next_pairs, sizes.in_channels}
                                : ListedRows<T>{gradient + (line - left_lines) * kLine<T>, targets + next_pairs,
                                                sizes.out_channels};
    add_rows<T, kTileRows>(product, left < kTileRows ? left : kTileRows);
  }
}

template <typename T>
constexpr Tiles<T> kTiles{multiply_pairs<T>, add_outer_products<T>};
