// Vectors of 16 float32 values in AVX-512.

// torch's arctangent of y / x, in the right quadrant; null if it is not exported.
extern "C" __m512 Sleef_atan2f16_u10(__m512 y, __m512 x) __attribute__((weak));

namespace {

using Vector = __m512;
using Mask = __mmask16;

constexpr Index kLanes = 16;

inline Mask first(Index n) { return n >= kLanes ? 0xffff : n <= 0 ? 0 : (1u << n) - 1; }

inline Vector load(const float* x) { return _mm512_loadu_ps(x); }
inline Vector load(const float* x, Mask mask) { return _mm512_maskz_loadu_ps(mask, x); }
inline void store(float* to, Vector x) { _mm512_storeu_ps(to, x); }
inline void store(float* to, Vector x, Mask mask) { _mm512_mask_storeu_ps(to, mask, x); }

inline Vector splat(float x) { return _mm512_set1_ps(x); }
inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector sub(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
inline Vector mul(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
inline Vector div(Vector a, Vector b) { return _mm512_div_ps(a, b); }
inline Vector fmadd(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }    // a b + c
inline Vector fmsub(Vector a, Vector b, Vector c) { return _mm512_fmsub_ps(a, b, c); }    // a b - c
inline Vector fnmadd(Vector a, Vector b, Vector c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a b
inline Vector root(Vector x) { return _mm512_sqrt_ps(x); }
inline Vector smaller(Vector a, Vector b) { return _mm512_min_ps(a, b); }
inline Vector larger(Vector a, Vector b) { return _mm512_max_ps(a, b); }
inline Vector larger(Vector a, Vector b, Mask mask) { return _mm512_mask_max_ps(a, mask, a, b); }  // else a
inline Vector where(Mask mask, Vector x) { return _mm512_maskz_mov_ps(mask, x); }                  // else 0
inline bool has_arctangent() { return Sleef_atan2f16_u10; }
inline Vector arctangent(Vector y, Vector x) { return Sleef_atan2f16_u10(y, x); }
inline float sum_of(Vector x) { return _mm512_reduce_add_ps(x); }
inline float largest_of(Vector x) { return _mm512_reduce_max_ps(x); }

// total + x in lanes where a and b are equal, else total.
inline Vector add_if_equal(Vector total, Vector x, Vector a, Vector b) {
  return _mm512_mask_add_ps(total, _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), total, x);
}

inline Vector nearest(Vector x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vector times_power_of_2(Vector x, Vector whole) { return _mm512_scalef_ps(x, whole); }

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

// x (rows, columns) of 32-bit values, transposed.
inline void transpose(const void* x, Index ld, Index rows, Index columns, void* to, Index ld_to) {
  const uint32_t* from = (const uint32_t*)x;
  uint32_t* target = (uint32_t*)to;
  __m512i block[16];
  for (Index i = 0; i < rows; i += 16)
    for (Index j = 0; j < columns; j += 16) {
      const Mask wide = first(columns - j), high = first(rows - i);
      for (Index r = 0; r < 16; ++r)
        block[r] = i + r < rows ? _mm512_maskz_loadu_epi32(wide, from + (i + r) * ld + j) : _mm512_setzero_si512();
      transpose(block);
      for (Index c = 0; c < std::min<Index>(16, columns - j); ++c)
        _mm512_mask_storeu_epi32(target + (j + c) * ld_to + i, high, block[c]);
    }
}

}  // namespace
