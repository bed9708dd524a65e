// The depthwise convolution of ConvSwiGLU, silu(conv(silu(gate) up)), arXiv 2512.14693.
//
// Two taps: a position and the one before it in its row. A tile of positions needs its neighbour's last values, so
// tiles follow each other in order, forward and, for the gradient, backward.

namespace {

struct Taps {
  const float *earlier, *here, *bias;  // (I) each
  Taps(const float* taps, const float* bias, Index I) : earlier(taps), here(taps + I), bias(bias) {}
};

// As `Taps`, sums of their gradients.
struct TapGradients {
  float *earlier, *here, *bias;
  TapGradients(float* taps, float* bias, Index I) : earlier(taps), here(taps + I), bias(bias) {}
};

inline Vector silu(Vector x) { return mul(x, sigmoid(x)); }

// Convolves m positions of gate and up, n columns each, of which the first is a row's `position`-th.
// `before`: the gated products of the position before the first, then those of the last. Copies gate and up to `kept`,
// (m, 2 n), if given.
inline void convolve(const float* gate, const float* up, Index m, Index n, Index position, Index L, const Taps& taps,
                     Index column, float* before, Value* to, Index ld, Value* kept) {
  for (Index i = 0; i < m; ++i, gate += n, up += n, to += ld) {
    const bool starts = (position + i) % L == 0;
    for (Index c = 0; c < n; c += kLanes) {
      const Vector g = load(gate + c), u = load(up + c), earlier = starts ? splat(0.f) : load(before + c);
      const Vector here = gated(g, u), of_here = fmadd(load(taps.here + column + c), here, load(taps.bias + column + c));
      store(to + c, silu(fmadd(load(taps.earlier + column + c), earlier, of_here)));
      store(before + c, here);
      if (kept) store(kept + i * 2 * n + c, g), store(kept + i * 2 * n + n + c, u);
    }
  }
}

// The gradient of a vector of columns, position by position from the last.
class ConvolutionBack {
 public:
  // `after`: the gradient of the convolution's output at the position after the last, then at the first.
  ConvolutionBack(const Taps& taps, const TapGradients& grads, Index column, float* after)
      : earlier(load(taps.earlier + column)), here(load(taps.here + column)), bias(load(taps.bias + column)),
        grads(grads), column(column), after(after), above(load(after)) {}

  // m positions of gate and up (m, ld), n columns apart, from the gradient of the output; the first is a row's
  // `position`-th. put(i, gate, up, out): the gradients and the output of kPair rows from the i-th, zero if there is none.
  template <typename Put>
  void run(const Value* gate_up, Index ld, Index n, const float* grad, Index ld_grad, Index m, Index position, Index L,
           Put put) {
    Gate now(gate_up + (m - 1) * ld, n);
    for (Index i = (m - 1) / kPair * kPair; i >= 0; i -= kPair) {
      Rounded gate[kPair]{}, up[kPair]{}, out[kPair]{};
      for (Index p = std::min(kPair, m - i) - 1; p >= 0; --p) {
        const Index at = (position + i + p) % L;
        const bool starts = at == 0;
        if (at == L - 1) above = splat(0.f);
        const Gate before = i + p || !starts ? Gate(gate_up + (i + p - 1) * ld, n) : Gate();
        const Vector out_before = starts ? splat(0.f) : before.out;
        const Vector x = fmadd(earlier, out_before, fmadd(here, now.out, bias)), s = sigmoid(x);
        const Vector back = mul(load(grad + (i + p) * ld_grad), silu_slope(x, s));
        of_earlier = fmadd(back, out_before, of_earlier);
        of_here = fmadd(back, now.out, of_here);
        of_bias = ::add(back, of_bias);
        const Vector g = fmadd(earlier, above, mul(here, back));
        above = back;
        gate[p] = rounded(mul(mul(g, now.up), silu_slope(now.gate, now.s)));
        up[p] = rounded(mul(g, mul(now.gate, now.s)));
        out[p] = rounded(mul(x, s));
        now = before;
      }
      put(i, gate, up, out);
    }
    store(after, above);
    add(grads.earlier, of_earlier), add(grads.here, of_here), add(grads.bias, of_bias);
  }

 private:
  struct Gate {
    Vector gate = splat(0.f), up = gate, s = gate, out = gate;
    Gate() = default;
    Gate(const Value* x, Index n) : gate(load(x)), up(load(x + n)), s(sigmoid(gate)) {
      out = mul(mul(gate, s), up);
    }
  };

  void add(float* to, Vector x) const { store(to + column, ::add(load(to + column), x)); }

  const Vector earlier, here, bias;
  const TapGradients grads;
  const Index column;
  float* const after;
  Vector above, of_earlier = splat(0.f), of_here = of_earlier, of_bias = of_earlier;
};

}  // namespace
