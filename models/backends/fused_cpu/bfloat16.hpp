// Values between products in bfloat16, two rows of a product's right side interleaved, and oneDNN's products.

#include <ATen/native/CPUBlas.h>

namespace {

using Value = at::BFloat16;
using Rounded = __m256i;  // a vector's values

constexpr Index kPair = 2;      // rows of a right side that are stored interleaved
constexpr Index kChunk = 1024;  // positions of a chunk of the backward pass, at least one row
#ifdef __AMX_BF16__
constexpr bool kAMX = true;
#else
constexpr bool kAMX = false;
#endif
constexpr Index kTileRows = 16, kTileDepth = 32;  // of AMX: rows of a left side and of the result, and inner columns
constexpr Index kFew = kAMX ? 0 : 64;             // positions for which attention has its own products, at most

inline Rounded raw(const Value* x) { return _mm256_loadu_si256((const __m256i*)x); }
inline Rounded rounded(Vector x) { return (__m256i)_mm512_cvtneps_pbh(x); }
inline Vector widened(Rounded x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
inline Vector load(const Value* x) { return widened(raw(x)); }
inline Vector load(const Value* x, Mask mask) { return widened(_mm256_maskz_loadu_epi16(mask, x)); }
inline void store(Value* to, Rounded x) { _mm256_storeu_si256((__m256i*)to, x); }
inline void store(Value* to, Vector x) { store(to, rounded(x)); }
inline void store(Value* to, Vector x, Mask mask) { _mm256_mask_storeu_epi16(to, mask, rounded(x)); }

// 2^x with a relative error of 3e-6; 0 or infinity outside of float32's range.
inline Vector exp2_of(Vector x) {
  const Vector whole = nearest(x), rest = sub(x, whole);
  Vector y = splat(0.00957010143f);  // minimax polynomial on [-1/2, 1/2]
  y = fmadd(y, rest, splat(0.0559178603f));
  y = fmadd(y, rest, splat(0.240247448f));
  y = fmadd(y, rest, splat(0.693121815f));
  y = fmadd(y, rest, splat(0.999999261f));
  return times_power_of_2(y, whole);
}

// With a relative error of 2^-14.
inline Vector sigmoid(Vector x) { return _mm512_rcp14_ps(add(splat(1.f), exp2_of(mul(x, splat(-kLog2E))))); }

// The right side of a product, (inner, columns), has its rows in pairs: (inner / 2, columns, 2).

inline __m512i paired(Rounded upper, Rounded lower) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(upper), _mm512_slli_epi32(_mm512_cvtepu16_epi32(lower), 16));
}

inline void store_pair(Value* to, const Rounded* rows) { _mm512_storeu_si512(to, paired(rows[0], rows[1])); }

// Pairs of rows of x (rows, columns), zero-padded; `ld` is the stride of the rows, and of the pairs in `to`.
inline void pair_rows(const Value* x, Index ld, Index rows, Index columns, Value* to, Index ld_to) {
  for (Index i = 0; i < rows; i += 2)
    for (Index j = 0; j < columns; j += kLanes) {
      const Value* at = x + i * ld + j;
      const Rounded lower = i + 1 < rows ? raw(at + ld) : _mm256_setzero_si256();
      _mm512_storeu_si512(to + i / 2 * ld_to + 2 * j, paired(raw(at), lower));
    }
}

// x (rows, columns), transposed: the left side xᵀ (columns, even rows), zero where x has no row.
inline void transpose_left(const Value* x, Index ld, Index rows, Index columns, Value* to, Index ld_to) {
  __m512i block[16];
  for (Index i = 0; i < rows; i += 32)
    for (Index j = 0; j < columns; j += 16) {
      for (Index r = 0; r < 16; ++r) {
        const Value* at = x + (i + 2 * r) * ld + j;
        const Index left = rows - i - 2 * r;
        block[r] =
            left <= 0 ? _mm512_setzero_si512() : paired(raw(at), left > 1 ? raw(at + ld) : _mm256_setzero_si256());
      }
      transpose(block);
      const Mask high = first((rows - i + 1) / 2);
      for (Index c = 0; c < 16; ++c) _mm512_mask_storeu_epi32(to + (j + c) * ld_to + i, high, block[c]);
    }
}

// to (columns) = sum of x (n, ld) over the rows `members`; columns are a multiple of 32.
inline void sum_rows(const Value* x, Index ld, const int32_t* members, Index n, Index columns, Value* to) {
  const __m512i upper = _mm512_set1_epi32(0xffff0000);  // of a pair of bfloat16
  for (Index c = 0; c < columns; c += 2 * kLanes) {
    Vector even = splat(0.f), odd = even;  // columns
    for (Index i = 0; i < n; ++i) {
      const __m512i both = _mm512_loadu_si512(x + members[i] * ld + c);
      even = add(even, _mm512_castsi512_ps(_mm512_slli_epi32(both, 16)));
      odd = add(odd, _mm512_castsi512_ps(_mm512_and_si512(both, upper)));
    }
    _mm512_storeu_si512(to + c, paired(rounded(even), rounded(odd)));
  }
}

inline void brgemm(Index m, Index n, Index k, const Value* a, Index lda, const Value* b, Index ldb, float* c, Index ldc,
                   bool add) {
  at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, add, a, b, c, true);
}

// Whether brgemm finds a number of rows that nearly fills its tiles.
inline bool fills_tiles(Index m) {
  for (Index rows = kTileRows; rows >= 12; --rows)
    if (m % rows == 0) return true;
  return false;
}

// c (m, n) = or += a (m, k) b (k, n), b in pairs; strides of rows of a, pairs of b and rows of c: lda, 2 ldb, ldc.
inline void product(Index m, Index n, Index k, const Value* a, Index lda, const Value* b, Index ldb, float* c,
                    Index ldc, bool add = false) {
  if constexpr (kAMX) {
    // Partly filled tiles take up to three times as long, so the last rows and inner columns are multiplied apart.
    constexpr Index large = 1 << 15;  // of n k, for which another call for rows pays
    const Index rows = m / kTileRows * kTileRows, depth = k / kTileDepth * kTileDepth;
    if (rows && n * k >= large && !fills_tiles(m)) {
      product(rows, n, k, a, lda, b, ldb, c, ldc, add);
      a += rows * lda, c += rows * ldc, m -= rows;
    }
    if (depth && depth < k) {
      brgemm(m, n, depth, a, lda, b, ldb, c, ldc, add);
      a += depth, b += depth * ldb, k -= depth, add = true;
    }
  }
  brgemm(m, n, k, a, lda, b, ldb, c, ldc, add);
}

// Products of few rows and columns, for which a call of brgemm takes longer than the product.

constexpr Index kFewRows = 6;  // at once, in registers

// R rows and N vectors of columns of `few_product`.
template <int R, int N, typename To>
inline void few_rows(Index pairs, const uint32_t* a, Index lda, const uint32_t* b, Index ldb, To* c, Index ldc) {
  Vector sums[R][N];
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) sums[r][n] = splat(0.f);
  for (Index p = 0; p < pairs; ++p) {
    __m512bh right[N];
    for (int n = 0; n < N; ++n) right[n] = (__m512bh)_mm512_loadu_si512(b + p * ldb + n * kLanes);
    for (int r = 0; r < R; ++r) {
      const __m512bh left = (__m512bh)_mm512_set1_epi32(a[r * lda + p]);
      for (int n = 0; n < N; ++n) sums[r][n] = _mm512_dpbf16_ps(sums[r][n], left, right[n]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) store(c + r * ldc + n * kLanes, sums[r][n]);
}

template <int N, typename To>
inline void few_rows(Index rows, Index pairs, const uint32_t* a, Index lda, const uint32_t* b, Index ldb, To* c,
                     Index ldc) {
  switch (rows) {
    case 1: return few_rows<1, N>(pairs, a, lda, b, ldb, c, ldc);
    case 2: return few_rows<2, N>(pairs, a, lda, b, ldb, c, ldc);
    case 3: return few_rows<3, N>(pairs, a, lda, b, ldb, c, ldc);
    case 4: return few_rows<4, N>(pairs, a, lda, b, ldb, c, ldc);
    case 5: return few_rows<5, N>(pairs, a, lda, b, ldb, c, ldc);
    default: return few_rows<kFewRows, N>(pairs, a, lda, b, ldb, c, ldc);
  }
}

// c (m, n) = a (m, k) b (k, n), b in pairs, in whole vectors of columns; strides as in `product`, k even.
template <typename To>
inline void few_product(Index m, Index n, Index k, const Value* a, Index lda, const Value* b, Index ldb, To* c,
                        Index ldc) {
  const Index at_once = (m + (m + kFewRows - 1) / kFewRows - 1) / ((m + kFewRows - 1) / kFewRows);
  for (Index i = 0; i < m; i += at_once) {
    const Index rows = std::min(at_once, m - i);
    const uint32_t *left = (const uint32_t*)(a + i * lda), *right = (const uint32_t*)b;
    Index j = 0;
    for (; j + kLanes < n; j += 2 * kLanes) few_rows<2>(rows, k / 2, left, lda / 2, right + j, ldb, c + i * ldc + j, ldc);
    if (j < n) few_rows<1>(rows, k / 2, left, lda / 2, right + j, ldb, c + i * ldc + j, ldc);
  }
}

// Called after a thread's products.
inline void release() { at::native::cpublas::brgemm_release(true); }

}  // namespace
