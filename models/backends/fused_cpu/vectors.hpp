// Vectors of 16 float32 values, and the layouts of the two sides of a product of bfloat16 matrices.

#include <ATen/native/CPUBlas.h>
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using bf16 = at::BFloat16;
using Index = int64_t;

constexpr Index kLanes = 16;
constexpr float kLog2E = 1.44269504f;

inline Index even(Index n) { return (n + 1) / 2 * 2; }
inline Index multiple(Index n, Index unit) { return (n + unit - 1) / unit * unit; }
inline __mmask16 first(Index n) { return n >= kLanes ? 0xffff : n <= 0 ? 0 : (1u << n) - 1; }

inline __m512 load(const float* x) { return _mm512_loadu_ps(x); }
inline __m512 load(const float* x, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, x); }
inline void store(float* to, __m512 x) { _mm512_storeu_ps(to, x); }

inline __m256i raw(const bf16* x) { return _mm256_loadu_si256((const __m256i*)x); }
inline __m256i rounded(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
inline __m512 widened(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
inline __m512 load(const bf16* x) { return widened(raw(x)); }
inline __m512 load(const bf16* x, __mmask16 mask) { return widened(_mm256_maskz_loadu_epi16(mask, x)); }
inline void store(bf16* to, __m512 x) { _mm256_storeu_si256((__m256i*)to, rounded(x)); }
inline void store(bf16* to, __m512 x, __mmask16 mask) { _mm256_mask_storeu_epi16(to, mask, rounded(x)); }

// 2^x with a relative error of 3e-6; 0 or infinity outside of float32's range.
inline __m512 exp2_of(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 rest = _mm512_sub_ps(x, whole);
  __m512 y = _mm512_set1_ps(0.00957010143f);  // minimax polynomial on [-1/2, 1/2]
  y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.0559178603f));
  y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.240247448f));
  y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.693121815f));
  y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.999999261f));
  return _mm512_scalef_ps(y, whole);
}

// With a relative error of 2^-14.
inline __m512 sigmoid(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.f);
  return _mm512_rcp14_ps(_mm512_add_ps(one, exp2_of(_mm512_mul_ps(x, _mm512_set1_ps(-kLog2E)))));
}

// silu(gate) · up
inline __m512 gated(__m512 gate, __m512 up) { return _mm512_mul_ps(_mm512_mul_ps(gate, up), sigmoid(gate)); }

// The right side of a product, (inner, columns), has its rows in pairs: (inner / 2, columns, 2).

inline __m512i paired(__m256i upper, __m256i lower) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(upper), _mm512_slli_epi32(_mm512_cvtepu16_epi32(lower), 16));
}

// Pairs of rows of x (rows, columns), zero-padded; `ld` is the stride of the rows, and of the pairs in `to`.
inline void pair_rows(const bf16* x, Index ld, Index rows, Index columns, bf16* to, Index ld_to) {
  for (Index i = 0; i < rows; i += 2)
    for (Index j = 0; j < columns; j += kLanes) {
      const bf16* at = x + i * ld + j;
      const __m256i lower = i + 1 < rows ? raw(at + ld) : _mm256_setzero_si256();
      _mm512_storeu_si512(to + i / 2 * ld_to + 2 * j, paired(raw(at), lower));
    }
}

// 16 rows of 16 32-bit values, transposed.
inline void transpose(__m512i x[16]) {
  __m512i y[16];
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {  // x[i + j]: of each quarter q of the columns, column 4 q + j of rows i to i + 3
    x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
  for (int j = 0; j < 4; ++j) {
    const __m512i even_upper = _mm512_shuffle_i32x4(x[j], x[4 + j], 0x88);
    const __m512i odd_upper = _mm512_shuffle_i32x4(x[j], x[4 + j], 0xdd);
    const __m512i even_lower = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0x88);
    const __m512i odd_lower = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0xdd);
    y[j] = _mm512_shuffle_i32x4(even_upper, even_lower, 0x88);
    y[4 + j] = _mm512_shuffle_i32x4(odd_upper, odd_lower, 0x88);
    y[8 + j] = _mm512_shuffle_i32x4(even_upper, even_lower, 0xdd);
    y[12 + j] = _mm512_shuffle_i32x4(odd_upper, odd_lower, 0xdd);
  }
  for (int i = 0; i < 16; ++i) x[i] = y[i];
}

// x (rows, columns) of 32-bit values, transposed: of x (rows, 2 columns) in bfloat16 the right side xᵀ in pairs.
inline void transpose(const void* x, Index ld, Index rows, Index columns, void* to, Index ld_to) {
  const uint32_t* from = (const uint32_t*)x;
  uint32_t* target = (uint32_t*)to;
  __m512i block[16];
  for (Index i = 0; i < rows; i += 16)
    for (Index j = 0; j < columns; j += 16) {
      const __mmask16 wide = first(columns - j), high = first(rows - i);
      for (Index r = 0; r < 16; ++r)
        block[r] = i + r < rows ? _mm512_maskz_loadu_epi32(wide, from + (i + r) * ld + j) : _mm512_setzero_si512();
      transpose(block);
      for (Index c = 0; c < std::min<Index>(16, columns - j); ++c)
        _mm512_mask_storeu_epi32(target + (j + c) * ld_to + i, high, block[c]);
    }
}

// x (rows, columns), transposed: the left side xᵀ (columns, even rows), zero where x has no row.
inline void transpose_left(const bf16* x, Index ld, Index rows, Index columns, bf16* to, Index ld_to) {
  __m512i block[16];
  for (Index i = 0; i < rows; i += 32)
    for (Index j = 0; j < columns; j += 16) {
      for (Index r = 0; r < 16; ++r) {
        const bf16* at = x + (i + 2 * r) * ld + j;
        const Index left = rows - i - 2 * r;
        block[r] =
            left <= 0 ? _mm512_setzero_si512() : paired(raw(at), left > 1 ? raw(at + ld) : _mm256_setzero_si256());
      }
      transpose(block);
      const __mmask16 high = first((rows - i + 1) / 2);
      for (Index c = 0; c < 16; ++c) _mm512_mask_storeu_epi32(to + (j + c) * ld_to + i, high, block[c]);
    }
}

// c (m, n) = or += a (m, k) b (k, n), b in pairs; strides of rows of a, pairs of b and rows of c: lda, 2 ldb, ldc.
inline void product(Index m, Index n, Index k, const bf16* a, Index lda, const bf16* b, Index ldb, float* c, Index ldc,
                    bool add = false) {
  at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, add, a, b, c, true);
}

// Memory that a thread keeps between calls, in chunks that grow as needed.
class Arena {
 public:
  void restart() { next = 0; }

  template <typename T>
  T* take(Index n) {
    if (next == pieces.size()) pieces.emplace_back();
    Piece& piece = pieces[next++];
    const size_t bytes = multiple(n * sizeof(T), 64);
    if (bytes > piece.size) {
      piece.memory.reset(std::aligned_alloc(64, bytes));
      piece.size = piece.memory ? bytes : 0;
      if (!piece.memory) throw std::bad_alloc();
    }
    return (T*)piece.memory.get();
  }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  struct Piece {
    std::unique_ptr<void, Free> memory;
    size_t size = 0;
  };
  std::vector<Piece> pieces;
  size_t next = 0;
};

}  // namespace
