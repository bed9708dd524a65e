// Elementwise operations between products, and their gradients.

namespace {

inline void sum(Index n, const bf16* a, const bf16* b, bf16* out) {
  for (Index i = 0; i < n; i += kLanes) {
    const __m512 x = load(a + i);
    store(out + i, b ? _mm512_add_ps(x, load(b + i)) : x);
  }
}

// Computes factor x + h, and adds its squares to `squares`.
inline __m512 added(float* x, __m512 factor, const bf16* h, __m512 squares) {
  const __m512 z = _mm512_fmadd_ps(load(x), factor, load(h));
  store(x, z);
  return _mm512_fmadd_ps(z, z, squares);
}

inline float rms_factor(float squares, Index n, float eps) { return 1.f / std::sqrt(squares / n + eps); }

inline __m512 rms_factor(__m512 squares, Index n, float eps) {
  const __m512 mean = _mm512_div_ps(squares, _mm512_set1_ps((float)n));
  return _mm512_div_ps(_mm512_set1_ps(1.f), _mm512_sqrt_ps(_mm512_add_ps(mean, _mm512_set1_ps(eps))));
}

// to = rms(factor x + h) along rows of D values, with an optional factor per row; the factors of rms are written to
// `scale`, if given.
inline void add_and_norm(float* x, const float* factors, const bf16* h, Index rows, Index D, float eps, bf16* to,
                         float* scale) {
  for (Index i = 0; i < rows; ++i, x += D, h += D, to += D) {
    const __m512 factor = _mm512_set1_ps(factors ? factors[i] : 1.f);
    __m512 squares = _mm512_setzero_ps();
    for (Index d = 0; d < D; d += kLanes) squares = added(x + d, factor, h + d, squares);
    const float by = rms_factor(_mm512_reduce_add_ps(squares), D, eps);
    for (Index d = 0; d < D; d += kLanes) store(to + d, _mm512_mul_ps(load(x + d), _mm512_set1_ps(by)));
    if (scale) scale[i] = by;
  }
}

// The same along columns.
inline void add_and_norm_columns(float* x, const float* factors, const bf16* h, Index rows, Index D, float eps,
                                 bf16* to, float* scale) {
  for (Index d = 0; d < D; d += kLanes) {
    const __m512 factor = factors ? load(factors + d) : _mm512_set1_ps(1.f);
    __m512 squares = _mm512_setzero_ps();
    for (Index i = 0; i < rows; ++i) squares = added(x + i * D + d, factor, h + i * D + d, squares);
    const __m512 by = rms_factor(squares, rows, eps);
    for (Index i = 0; i < rows; ++i) store(to + i * D + d, _mm512_mul_ps(load(x + i * D + d), by));
    if (scale) store(scale + d, by);
  }
}

// Rotates the halves of a head's H values by a position's angles; `back`: in the opposite direction. arXiv 2104.09864
inline void rotate(const float* x, const float* cos, const float* sin, Index H, bf16* to, bool back = false) {
  const Index half = H / 2;
  for (Index d = 0; d < half; d += kLanes) {
    const __mmask16 mask = first(half - d);
    const __m512 x0 = load(x + d, mask), x1 = load(x + half + d, mask);
    const __m512 c0 = load(cos + d, mask), c1 = load(cos + half + d, mask);
    const __m512 s0 = load(sin + d, mask), s1 = load(sin + half + d, mask);
    if (back) {
      store(to + d, _mm512_fmadd_ps(x0, c0, _mm512_mul_ps(x1, s1)), mask);
      store(to + half + d, _mm512_fmsub_ps(x1, c1, _mm512_mul_ps(x0, s0)), mask);
    } else {
      store(to + d, _mm512_fmsub_ps(x0, c0, _mm512_mul_ps(x1, s0)), mask);
      store(to + half + d, _mm512_fmadd_ps(x1, c1, _mm512_mul_ps(x0, s1)), mask);
    }
  }
}

// squares + (gate up)²
inline __m512 squared(__m512 gate, __m512 up, __m512 squares) {
  const __m512 product = _mm512_mul_ps(gate, up);
  return _mm512_fmadd_ps(product, product, squares);
}

inline void copy(const float* x, Index H, bf16* to) {
  for (Index d = 0; d < H; d += kLanes) store(to + d, load(x + d));
}

// Softmax of m rows of L scores: unnormalised weights (m, ld), zero-padded to an even number, and their divisors.
inline void softmax(const float* scores, Index m, Index L, Index ld, float scale, bf16* weights, float* inverse,
                    float* lse) {
  const __m512 by = _mm512_set1_ps(scale * kLog2E);
  for (Index i = 0; i < m; ++i, scores += ld, weights += ld) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    for (Index j = 0; j < L; j += kLanes) most = _mm512_mask_max_ps(most, first(L - j), most, load(scores + j));
    const float top = _mm512_reduce_max_ps(most) * scale * kLog2E;
    __m512 total = _mm512_setzero_ps();
    for (Index j = 0; j < L; j += kLanes) {
      const __m512 x = exp2_of(_mm512_fmsub_ps(load(scores + j), by, _mm512_set1_ps(top)));
      const __m512 y = _mm512_maskz_mov_ps(first(L - j), x);
      total = _mm512_add_ps(total, y);
      store(weights + j, y);
    }
    const float all = _mm512_reduce_add_ps(total);
    inverse[i] = 1.f / all;
    if (lse) lse[i] = top + std::log2(all);
  }
}

struct GatedBack {
  __m512 gate, up, out;
};

// Gradients of gate and up, and out = scale sigmoid(gate) gate up, from the gradient of out. If `scale` is a factor of
// rms, its gradient subtracts `slope` times gate up from the gradient of gate up; else scale is 1 and slope 0.
inline GatedBack gated_back(__m512 gate, __m512 up, __m512 grad, __m512 scale, __m512 slope) {
  const __m512 s = sigmoid(gate), p = _mm512_mul_ps(gate, up), g = _mm512_mul_ps(grad, scale);
  const __m512 gated = _mm512_mul_ps(s, p);
  const __m512 grad_p = _mm512_fmsub_ps(s, g, _mm512_mul_ps(p, slope));
  const __m512 through_s = _mm512_mul_ps(_mm512_mul_ps(gated, g), _mm512_sub_ps(_mm512_set1_ps(1.f), s));
  return {_mm512_fmadd_ps(grad_p, up, through_s), _mm512_mul_ps(grad_p, gate), _mm512_mul_ps(gated, scale)};
}

// The same for out = silu(gate) up.
inline GatedBack gated_back(__m512 gate, __m512 up, __m512 grad) {
  const __m512 s = sigmoid(gate), silu = _mm512_mul_ps(gate, s);
  const __m512 slope = _mm512_fnmadd_ps(silu, s, _mm512_add_ps(s, silu));
  return {_mm512_mul_ps(_mm512_mul_ps(grad, up), slope), _mm512_mul_ps(grad, silu), _mm512_mul_ps(silu, up)};
}

// scale³ dot / n: the slope from the product of grad and sigmoid(gate) gate up, summed over n.
inline __m512 rms_slope(__m512 scale, __m512 dot, Index n) {
  const __m512 cube = _mm512_mul_ps(scale, _mm512_mul_ps(scale, scale));
  return _mm512_div_ps(_mm512_mul_ps(cube, dot), _mm512_set1_ps((float)n));
}

// Gradient of the input of rms, from its output y and factors `scale`, along rows of D values; g may be `to`.
template <typename G>
inline void norm_back(const G* g, const bf16* y, const float* scale, Index rows, Index D, float* to, bf16* rounded_to) {
  for (Index i = 0; i < rows; ++i, g += D, y += D, to += D, rounded_to += D) {
    __m512 dot = _mm512_setzero_ps();
    for (Index d = 0; d < D; d += kLanes) dot = _mm512_fmadd_ps(load(g + d), load(y + d), dot);
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(dot) / D), by = _mm512_set1_ps(scale[i]);
    for (Index d = 0; d < D; d += kLanes) {
      const __m512 x = _mm512_mul_ps(by, _mm512_fnmadd_ps(load(y + d), mean, load(g + d)));
      store(to + d, x);
      store(rounded_to + d, x);
    }
  }
}

// The same along columns.
inline void norm_back_columns(const bf16* g, const bf16* y, const float* scale, Index rows, Index D, float* to,
                              bf16* rounded_to) {
  for (Index d = 0; d < D; d += kLanes) {
    __m512 dot = _mm512_setzero_ps();
    for (Index i = 0; i < rows; ++i) dot = _mm512_fmadd_ps(load(g + i * D + d), load(y + i * D + d), dot);
    const __m512 mean = _mm512_div_ps(dot, _mm512_set1_ps((float)rows)), by = load(scale + d);
    for (Index i = 0; i < rows; ++i) {
      const __m512 x = _mm512_mul_ps(by, _mm512_fnmadd_ps(load(y + i * D + d), mean, load(g + i * D + d)));
      store(to + i * D + d, x);
      store(rounded_to + i * D + d, x);
    }
  }
}

}  // namespace
