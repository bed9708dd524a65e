// Vectors of 8 float32 values in AVX2, with the functions of vectors_512.hpp.

extern "C" __m256 Sleef_atan2f8_u10(__m256 y, __m256 x) __attribute__((weak));

namespace {

using Vector = __m256;
using Mask = __m256i;  // -1 in the lanes that are part of it

constexpr Index kLanes = 8;

inline Mask first(Index n) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)std::clamp<Index>(n, 0, kLanes)), lanes);
}

inline Vector load(const float* x) { return _mm256_loadu_ps(x); }
inline Vector load(const float* x, Mask mask) { return _mm256_maskload_ps(x, mask); }
inline void store(float* to, Vector x) { _mm256_storeu_ps(to, x); }
inline void store(float* to, Vector x, Mask mask) { _mm256_maskstore_ps(to, mask, x); }

inline Vector splat(float x) { return _mm256_set1_ps(x); }
inline Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
inline Vector sub(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
inline Vector mul(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
inline Vector div(Vector a, Vector b) { return _mm256_div_ps(a, b); }
inline Vector fmadd(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline Vector fmsub(Vector a, Vector b, Vector c) { return _mm256_fmsub_ps(a, b, c); }
inline Vector fnmadd(Vector a, Vector b, Vector c) { return _mm256_fnmadd_ps(a, b, c); }
inline Vector root(Vector x) { return _mm256_sqrt_ps(x); }
inline Vector smaller(Vector a, Vector b) { return _mm256_min_ps(a, b); }
inline Vector larger(Vector a, Vector b) { return _mm256_max_ps(a, b); }
inline Vector larger(Vector a, Vector b, Mask mask) {
  return _mm256_blendv_ps(a, _mm256_max_ps(a, b), _mm256_castsi256_ps(mask));
}
inline Vector where(Mask mask, Vector x) { return _mm256_and_ps(_mm256_castsi256_ps(mask), x); }
inline bool has_arctangent() { return Sleef_atan2f8_u10; }
inline Vector arctangent(Vector y, Vector x) { return Sleef_atan2f8_u10(y, x); }

inline float sum_of(Vector x) {
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}

inline float largest_of(Vector x) {
  __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}

inline Vector add_if_equal(Vector total, Vector x, Vector a, Vector b) {
  return add(total, _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ), x));
}

inline Vector nearest(Vector x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

// `whole` from -127, which gives 0, to 128, which gives infinity.
inline Vector times_power_of_2(Vector x, Vector whole) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
  return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

// 8 rows of 8 values, transposed.
inline void transpose(Vector x[8]) {
  Vector y[8];
  for (int i = 0; i < 8; i += 4) {  // y[i + j]: of both halves h of the columns, column 4 h + j of rows i to i + 3
    const Vector a = _mm256_unpacklo_ps(x[i], x[i + 1]), b = _mm256_unpackhi_ps(x[i], x[i + 1]);
    const Vector c = _mm256_unpacklo_ps(x[i + 2], x[i + 3]), d = _mm256_unpackhi_ps(x[i + 2], x[i + 3]);
    y[i] = _mm256_shuffle_ps(a, c, 0x44), y[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
    y[i + 2] = _mm256_shuffle_ps(b, d, 0x44), y[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
  }
  for (int j = 0; j < 4; ++j) {
    x[j] = _mm256_permute2f128_ps(y[j], y[4 + j], 0x20);
    x[4 + j] = _mm256_permute2f128_ps(y[j], y[4 + j], 0x31);
  }
}

inline void transpose(const void* x, Index ld, Index rows, Index columns, void* to, Index ld_to) {
  const float* from = (const float*)x;
  float* target = (float*)to;
  Vector block[8];
  for (Index i = 0; i < rows; i += 8)
    for (Index j = 0; j < columns; j += 8) {
      const Mask wide = first(columns - j), high = first(rows - i);
      for (Index r = 0; r < 8; ++r) block[r] = i + r < rows ? load(from + (i + r) * ld + j, wide) : splat(0.f);
      transpose(block);
      for (Index c = 0; c < std::min<Index>(8, columns - j); ++c) store(target + (j + c) * ld_to + i, block[c], high);
    }
}

}  // namespace
