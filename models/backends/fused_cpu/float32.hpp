// Values in float32 throughout, and our own products, whose right sides need no special layout.

namespace {

using Value = float;
using Rounded = Vector;

constexpr Index kPair = 1;
constexpr Index kChunk = 256;
constexpr Index kFew = 64;

inline Rounded rounded(Vector x) { return x; }

// 2^x with a relative error of 1e-7; 0 or infinity outside of float32's range.
inline Vector exp2_of(Vector x) {
  // In this order NaN stays NaN.
  const Vector inside = smaller(splat(128.f), larger(splat(-127.f), x));
  const Vector whole = nearest(inside), rest = sub(inside, whole);
  Vector y = splat(0.000153457921f);  // minimax polynomial on [-1/2, 1/2]
  y = fmadd(y, rest, splat(0.00133999297f));
  y = fmadd(y, rest, splat(0.00961848907f));
  y = fmadd(y, rest, splat(0.0555032864f));
  y = fmadd(y, rest, splat(0.240226462f));
  y = fmadd(y, rest, splat(0.693147182f));
  y = fmadd(y, rest, splat(1.f));
  return times_power_of_2(y, whole);
}

inline Vector sigmoid(Vector x) { return div(splat(1.f), add(splat(1.f), exp2_of(mul(x, splat(-kLog2E))))); }

inline void store_pair(Value* to, const Rounded* rows) { store(to, rows[0]); }

inline void pair_rows(const Value* x, Index ld, Index rows, Index columns, Value* to, Index ld_to) {
  for (Index i = 0; i < rows; ++i) std::copy(x + i * ld, x + i * ld + columns, to + i * ld_to);
}

inline void transpose_left(const Value* x, Index ld, Index rows, Index columns, Value* to, Index ld_to) {
  transpose(x, ld, rows, columns, to, ld_to);
}

inline void sum_rows(const Value* x, Index ld, const int32_t* members, Index n, Index columns, Value* to) {
  for (Index c = 0; c < columns; c += kLanes) {
    Vector total = splat(0.f);
    for (Index i = 0; i < n; ++i) total = add(total, load(x + members[i] * ld + c));
    store(to + c, total);
  }
}

// The sums of a tile of c, R rows by C vectors, stay in registers: of 16 for AVX2, of 32 for AVX-512.
constexpr Index kTileRows = kLanes == 8 ? 6 : 12;
constexpr int kTileVectors = 2;

// c (R, C vectors) = or += a (R, k) b (k, C vectors); `mask`: the lanes of the only vector, if it is not whole.
template <int R, int C, bool kMasked>
void tile(Index k, const float* a, Index lda, const float* b, Index ldb, float* c, Index ldc, bool add, Mask mask) {
  static_assert(C == 1 || !kMasked);
  Vector sums[R][C];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < C; ++j) sums[r][j] = splat(0.f);
  for (Index l = 0; l < k; ++l, ++a, b += ldb) {
    Vector right[C];
    for (int j = 0; j < C; ++j) right[j] = kMasked ? load(b, mask) : load(b + j * kLanes);
    for (int r = 0; r < R; ++r) {
      const Vector left = splat(a[r * lda]);
      for (int j = 0; j < C; ++j) sums[r][j] = fmadd(left, right[j], sums[r][j]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < C; ++j) {
      float* to = c + r * ldc + j * kLanes;
      if constexpr (kMasked) {
        store(to, add ? ::add(load(to, mask), sums[r][j]) : sums[r][j], mask);
      } else {
        store(to, add ? ::add(load(to), sums[r][j]) : sums[r][j]);
      }
    }
}

using Tile = void (*)(Index, const float*, Index, const float*, Index, float*, Index, bool, Mask);

// By number of rows, from 1.
template <int C, bool kMasked, size_t... kRows>
constexpr std::array<Tile, kTileRows> tiles(std::index_sequence<kRows...>) {
  return {tile<(int)kRows + 1, C, kMasked>...};
}

// c (m, n) = or += a (m, k) b (k, n); strides of rows: lda, ldb, ldc.
inline void product(Index m, Index n, Index k, const float* a, Index lda, const float* b, Index ldb, float* c,
                    Index ldc, bool add = false) {
  constexpr auto rows = std::make_index_sequence<kTileRows>();
  static constexpr auto wide = tiles<kTileVectors, false>(rows), narrow = tiles<1, false>(rows);
  static constexpr auto partial = tiles<1, true>(rows);
  const Index bands = (m + kTileRows - 1) / kTileRows;
  for (Index j = 0, width; j < n; j += width) {
    const Index left = n - j;
    const auto& of_rows = left >= kTileVectors * kLanes ? wide : left >= kLanes ? narrow : partial;
    width = left >= kTileVectors * kLanes ? kTileVectors * kLanes : kLanes;
    const Mask mask = first(left);
    for (Index band = 0; band < bands; ++band) {  // of nearly equal heights
      const Index from = m * band / bands, height = m * (band + 1) / bands - from;
      of_rows[height - 1](k, a + from * lda, lda, b + j, ldb, c + from * ldc + j, ldc, add, mask);
    }
  }
}

inline void few_product(Index m, Index n, Index k, const float* a, Index lda, const float* b, Index ldb, float* c,
                        Index ldc) {
  product(m, n, k, a, lda, b, ldb, c, ldc);
}

inline void release() {}

}  // namespace
