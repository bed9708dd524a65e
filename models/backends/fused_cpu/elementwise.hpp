// Elementwise operations between products, and their gradients.

namespace {

// silu(gate) · up
inline Vector gated(Vector gate, Vector up) { return mul(mul(gate, up), sigmoid(gate)); }

inline void sum(Index n, const Value* a, const Value* b, Value* out) {
  for (Index i = 0; i < n; i += kLanes) {
    const Vector x = load(a + i);
    store(out + i, b ? add(x, load(b + i)) : x);
  }
}

// Computes factor x + h, and adds its squares to `squares`.
inline Vector added(float* x, Vector factor, const Value* h, Vector squares) {
  const Vector z = fmadd(load(x), factor, load(h));
  store(x, z);
  return fmadd(z, z, squares);
}

inline float rms_factor(float squares, Index n, float eps) { return 1.f / std::sqrt(squares / n + eps); }

inline Vector rms_factor(Vector squares, Index n, float eps) {
  const Vector mean = div(squares, splat((float)n));
  return div(splat(1.f), root(add(mean, splat(eps))));
}

// to = rms(factor x + h) along rows of D values, with an optional factor per row; the factors of rms are written to
// `scale`, if given.
inline void add_and_norm(float* x, const float* factors, const Value* h, Index rows, Index D, float eps, Value* to,
                         float* scale) {
  for (Index i = 0; i < rows; ++i, x += D, h += D, to += D) {
    const Vector factor = splat(factors ? factors[i] : 1.f);
    Vector squares = splat(0.f);
    for (Index d = 0; d < D; d += kLanes) squares = added(x + d, factor, h + d, squares);
    const float by = rms_factor(sum_of(squares), D, eps);
    for (Index d = 0; d < D; d += kLanes) store(to + d, mul(load(x + d), splat(by)));
    if (scale) scale[i] = by;
  }
}

// The same along columns.
inline void add_and_norm_columns(float* x, const float* factors, const Value* h, Index rows, Index D, float eps,
                                 Value* to, float* scale) {
  for (Index d = 0; d < D; d += kLanes) {
    const Vector factor = factors ? load(factors + d) : splat(1.f);
    Vector squares = splat(0.f);
    for (Index i = 0; i < rows; ++i) squares = added(x + i * D + d, factor, h + i * D + d, squares);
    const Vector by = rms_factor(squares, rows, eps);
    for (Index i = 0; i < rows; ++i) store(to + i * D + d, mul(load(x + i * D + d), by));
    if (scale) store(scale + d, by);
  }
}

// Rotates the halves of a head's H values by a position's angles; `back`: in the opposite direction. arXiv 2104.09864
inline void rotate(const float* x, const float* cos, const float* sin, Index H, Value* to, bool back = false) {
  const Index half = H / 2;
  for (Index d = 0; d < half; d += kLanes) {
    const Mask mask = first(half - d);
    const Vector x0 = load(x + d, mask), x1 = load(x + half + d, mask);
    const Vector c0 = load(cos + d, mask), c1 = load(cos + half + d, mask);
    const Vector s0 = load(sin + d, mask), s1 = load(sin + half + d, mask);
    if (back) {
      store(to + d, fmadd(x0, c0, mul(x1, s1)), mask);
      store(to + half + d, fmsub(x1, c1, mul(x0, s0)), mask);
    } else {
      store(to + d, fmsub(x0, c0, mul(x1, s0)), mask);
      store(to + half + d, fmadd(x1, c1, mul(x0, s1)), mask);
    }
  }
}

// squares + (gate up)²
inline Vector squared(Vector gate, Vector up, Vector squares) {
  const Vector product = mul(gate, up);
  return fmadd(product, product, squares);
}

inline void copy(const float* x, Index H, Value* to) {
  for (Index d = 0; d < H; d += kLanes) store(to + d, load(x + d));
}

// Softmax of m rows of L scores: unnormalised weights (m, ld), zero-padded to whole pairs, and their divisors.
inline void softmax(const float* scores, Index m, Index L, Index ld, float scale, Value* weights, float* inverse,
                    float* lse) {
  const Vector by = splat(scale * kLog2E);
  for (Index i = 0; i < m; ++i, scores += ld, weights += ld) {
    Vector most = splat(-INFINITY);
    for (Index j = 0; j < L; j += kLanes) most = larger(most, load(scores + j), first(L - j));
    const float top = largest_of(most) * scale * kLog2E;
    Vector total = splat(0.f);
    for (Index j = 0; j < L; j += kLanes) {
      const Vector x = exp2_of(fmsub(load(scores + j), by, splat(top)));
      const Vector y = where(first(L - j), x);
      total = add(total, y);
      store(weights + j, y);
    }
    const float all = sum_of(total);
    inverse[i] = 1.f / all;
    if (lse) lse[i] = top + std::log2(all);
  }
}

struct GatedBack {
  Vector gate, up, out;
};

// Gradients of gate and up, and out = scale sigmoid(gate) gate up, from the gradient of out. If `scale` is a factor of
// rms, its gradient subtracts `slope` times gate up from the gradient of gate up; else scale is 1 and slope 0.
inline GatedBack gated_back(Vector gate, Vector up, Vector grad, Vector scale, Vector slope) {
  const Vector s = sigmoid(gate), p = mul(gate, up), g = mul(grad, scale);
  const Vector gated = mul(s, p);
  const Vector grad_p = fmsub(s, g, mul(p, slope));
  const Vector through_s = mul(mul(gated, g), sub(splat(1.f), s));
  return {fmadd(grad_p, up, through_s), mul(grad_p, gate), mul(gated, scale)};
}

// Derivative of x s, s = sigmoid(x).
inline Vector silu_slope(Vector x, Vector s) {
  const Vector silu = mul(x, s);
  return fnmadd(silu, s, add(s, silu));
}

// The same for out = silu(gate) up.
inline GatedBack gated_back(Vector gate, Vector up, Vector grad) {
  const Vector s = sigmoid(gate), silu = mul(gate, s), slope = silu_slope(gate, s);
  return {mul(mul(grad, up), slope), mul(grad, silu), mul(silu, up)};
}

// scale³ dot / n: the slope from the product of grad and sigmoid(gate) gate up, summed over n.
inline Vector rms_slope(Vector scale, Vector dot, Index n) {
  const Vector cube = mul(scale, mul(scale, scale));
  return div(mul(cube, dot), splat((float)n));
}

// Gradient of the input of rms, from its output y and factors `scale`, along rows of D values; g may be `to`.
template <typename G>
inline void norm_back(const G* g, const Value* y, const float* scale, Index rows, Index D, float* to, Value* rounded_to) {
  for (Index i = 0; i < rows; ++i, g += D, y += D, to += D, rounded_to += D) {
    Vector dot = splat(0.f);
    for (Index d = 0; d < D; d += kLanes) dot = fmadd(load(g + d), load(y + d), dot);
    const Vector mean = splat(sum_of(dot) / D), by = splat(scale[i]);
    for (Index d = 0; d < D; d += kLanes) {
      const Vector x = mul(by, fnmadd(load(y + d), mean, load(g + d)));
      store(to + d, x);
      store(rounded_to + d, x);
    }
  }
}

// The same along columns.
inline void norm_back_columns(const Value* g, const Value* y, const float* scale, Index rows, Index D, float* to,
                              Value* rounded_to) {
  for (Index d = 0; d < D; d += kLanes) {
    Vector dot = splat(0.f);
    for (Index i = 0; i < rows; ++i) dot = fmadd(load(g + i * D + d), load(y + i * D + d), dot);
    const Vector mean = div(dot, splat((float)rows)), by = load(scale + d);
    for (Index i = 0; i < rows; ++i) {
      const Vector x = mul(by, fnmadd(load(y + i * D + d), mean, load(g + i * D + d)));
      store(to + i * D + d, x);
      store(rounded_to + i * D + d, x);
    }
  }
}

}  // namespace
