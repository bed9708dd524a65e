// One application of the network: h = rms(h + mix(h)), h = rms(h + SwiGLU(h)), layer after layer.
//
// A group of rows passes through all layers before the next group, so that intermediate results stay in the caches;
// elementwise operations are applied to a product's float32 result, block by block.
// If `rms_gated`, SwiGLU is down(sigmoid(gate) rms(gate up)) (arXiv 2601.19085). The factor of rms
// is a number per position, so it is applied to the output of `down`, when it is known.
// Names of sizes as in structures.hpp; T positions of a group.

namespace {

class Forward {
 public:
  Forward(const Shape& s, Arena& arena)
      : s(s), W(s.heads * s.head_dim), ld(multiple(s.length, 32)), few(s.length, s.head_dim, W, arena) {
    const Index T = rows_together() * s.length, tile = std::min(T, kGroup), L = s.length;
    const Index J = s.mix_inner;
    q = arena.take<Value>(T * W);
    k = arena.take<Value>(T * W);
    v = arena.take<Value>(T * W);
    mixed = arena.take<Value>(T * W);
    keys = arena.take<Value>(s.head_dim * ld);
    values = arena.take<Value>(s.head_dim * ld);
    weights = arena.take<Value>(kQueries * ld);
    pairs = arena.take<Value>(J ? ld * s.width : 0);
    inner = arena.take<Value>(std::max(tile * s.inner, J * s.width));
    wide = arena.take<float>(std::max(tile, J ? L : 0) * s.width);
    block = arena.take<float>(std::max({2 * tile, 2 * kMixed, kQueries}) * kWidest);
    scores = arena.take<float>(kQueries * ld);
    factors = arena.take<float>(std::max(tile, s.width));
    before = arena.take<float>(s.inner);
  }

  // Rows [from, to) of the batch; `kept`: one per layer, or null. `injection` is added to `in`, if given.
  void run(const Layer* layers, const Kept* kept, const Value* in, const Value* injection, Value* out, Index from,
           Index to) {
    const Index L = s.length, D = s.width, step = rows_together();
    for (Index row = from; row < to; row += step) {
      const Index n = std::min(step, to - row), at = row * L * D;
      Value* h = kept ? kept[0].before + at : out + at;
      sum(n * L * D, in + at, injection ? injection + at : nullptr, h);
      for (Index i = 0; i < s.layers; ++i) {
        const Kept* keep = kept ? kept + i : nullptr;
        Value* between = keep ? keep->between + at : h;
        if (s.mix_inner)
          mix(layers[i], keep, h, between, row, n);
        else
          attend(layers[i], keep, h, between, row, n);
        Value* after = keep ? keep->after + at : h;
        feed_forward(layers[i], keep, between, after, row * L, n * L);
        h = after;
      }
    }
    release();
  }

  // Rows that `attend` takes at most.
  Index rows_together() const { return std::max<Index>(1, kGroup / s.length); }

  // to = rms(h + attention(h)); h and `to` may be the same.
  void attend(const Layer& l, const Kept* keep, const Value* h, Value* to, Index row, Index rows) {
    const Index L = s.length, D = s.width, T = rows * L, at = row * L * W;
    Value* const qkv[3] = {keep ? keep->q + at : q, keep ? keep->k + at : k, keep ? keep->v + at : v};
    Value* const out = keep ? keep->mixed + at : mixed;
    for (Index t = 0; t < T; t += kGroup) project(l, h + t * D, t, std::min(kGroup, T - t), qkv);
    for (Index r = 0; r < rows; ++r)
      for (Index head = 0; head < s.heads; ++head) {
        const Index place = r * L * W + head * s.head_dim;
        float* lse = keep ? keep->lse + ((row + r) * s.heads + head) * L : nullptr;
        attend(qkv[0] + place, qkv[1] + place, qkv[2] + place, out + place, lse);
      }
    for (Index t = 0; t < T; t += kGroup) {
      const Index m = std::min(kGroup, T - t);
      float* scale = keep ? keep->scale_between + row * L + t : nullptr;
      for (Index j = 0; j < blocks(l.out); ++j) product(m, out + t * W, W, l.out, j, wide + j * l.out.block, D);
      add_and_norm(wide, nullptr, h + t * D, m, D, s.eps, to + t * D, scale);
    }
  }

  // to = rms(h + SwiGLU(h)) for T positions from the `at`-th of the batch; h and `to` may be the same.
  void feed_forward(const Layer& l, const Kept* keep, const Value* h, Value* to, Index at, Index T) {
    const Index D = s.width, I = s.inner, n = l.gate_up.block;
    for (Index t = 0; t < T; t += kGroup, h += kGroup * D, to += kGroup * D) {
      const Index m = std::min(kGroup, T - t);
      float *gate = block, *up = block + m * n;
      std::fill(factors, factors + m, 0.f);
      for (Index j = 0; j < I; j += n) {
        Value* kept_gate = keep ? keep->gate_up + (j * s.rows * s.length + (at + t) * n) * 2 : nullptr;
        product(m, h, D, l.gate_up, j / n, gate, n);
        product(m, h, D, l.gate_up, (I + j) / n, up, n);
        if (l.conv_taps) {
          const Taps taps(l.conv_taps, l.conv_bias, I);
          convolve(gate, up, m, n, t, s.length, taps, j, before + j, inner + j, I, kept_gate);
          continue;
        }
        for (Index i = 0; i < m; ++i) {
          Vector squares = splat(0.f);
          for (Index c = 0; c < n; c += kLanes) {
            const Vector g = load(gate + i * n + c), u = load(up + i * n + c);
            if (s.rms_gated) squares = squared(g, u, squares);
            store(inner + i * I + j + c, gated(g, u));
            if (kept_gate) {
              store(kept_gate + i * 2 * n + c, g);
              store(kept_gate + i * 2 * n + n + c, u);
            }
          }
          if (s.rms_gated) factors[i] += sum_of(squares);
        }
      }
      if (s.rms_gated)
        for (Index i = 0; i < m; ++i) {
          factors[i] = rms_factor(factors[i], I, s.eps);
          if (keep) keep->scale_inner[at + t + i] = factors[i];
        }
      for (Index j = 0; j < blocks(l.down); ++j) product(m, inner, I, l.down, j, wide + j * l.down.block, D);
      float* scale = keep ? keep->scale_after + at + t : nullptr;
      add_and_norm(wide, s.rms_gated ? factors : nullptr, h, m, D, s.eps, to, scale);
    }
  }

 private:
  // Queries, keys and values of m positions from the t-th of the group, each (T, W).
  void project(const Layer& l, const Value* h, Index t, Index m, Value* const qkv[3]) {
    const Index H = s.head_dim;
    for (Index j = 0; j < blocks(l.qkv); ++j) {
      product(m, h, s.width, l.qkv, j, block, l.qkv.block);
      for (Index b = 0; b < l.qkv.block; b += H) {
        const Index column = j * l.qkv.block + b, part = column / W;
        Value* to = qkv[part] + t * W + column % W;
        for (Index i = 0; i < m; ++i, to += W) {
          const float* x = block + i * l.qkv.block + b;
          const Index position = (t + i) % s.length;
          if (part < 2 && s.cos)
            rotate(x, s.cos + position * H, s.sin + position * H, H, to);
          else
            copy(x, H, to);
        }
      }
    }
  }

  // One head of one row; queries, keys, values and output have a stride of W values between positions.
  void attend(const Value* q, const Value* k, const Value* v, Value* out, float* lse) {
    const Index L = s.length, H = s.head_dim;
    if (L <= kFew) return few.forward(q, k, v, out);
    float inverse[kQueries];
    transpose(k, W / kPair, L, H / kPair, keys, ld);
    pair_rows(v, W, L, H, values, kPair * H);
    for (Index i = 0; i < L; i += kQueries) {
      const Index m = std::min(kQueries, L - i);
      product(m, multiple(L, kLanes), H, q + i * W, W, keys, ld, scores, ld);
      softmax(scores, m, L, ld, 1 / std::sqrt((float)H), weights, inverse, lse ? lse + i : nullptr);
      product(m, H, whole_pairs(L), weights, ld, values, H, block, H);
      for (Index r = 0; r < m; ++r)
        for (Index d = 0; d < H; d += kLanes)
          store(out + (i + r) * W + d, mul(load(block + r * H + d), splat(inverse[r])));
    }
  }

  // SwiGLU over the positions of each column, row by row (arXiv 2510.04871, section 4.5).
  void mix(const Layer& l, const Kept* keep, const Value* h, Value* to, Index row, Index rows) {
    const Index L = s.length, D = s.width, J = s.mix_inner, n = block_of(D), Lp = whole_pairs(L);
    float *gate = block, *up = block + kMixed * n;
    for (Index r = 0; r < rows; ++r, h += L * D, to += L * D) {
      Value* kept_gate = keep ? keep->mix_gate_up + (row + r) * 2 * J * D : nullptr;
      pair_rows(h, D, L, D, pairs, kPair * D);
      std::fill(factors, factors + D, 0.f);
      for (Index j = 0; j < J; j += kMixed)
        for (Index d = 0; d < D; d += n) {
          product(kMixed, n, Lp, l.mix_gate_up + j * Lp, Lp, pairs + kPair * d, D, gate, n);
          product(kMixed, n, Lp, l.mix_gate_up + (J + j) * Lp, Lp, pairs + kPair * d, D, up, n);
          for (Index i = 0; i < kMixed; i += kPair)
            for (Index c = 0; c < n; c += kLanes) {
              Rounded out[kPair];
              for (Index p = 0; p < kPair; ++p) {
                const Vector g = load(gate + (i + p) * n + c), u = load(up + (i + p) * n + c);
                if (s.rms_gated) store(factors + d + c, squared(g, u, load(factors + d + c)));
                out[p] = rounded(gated(g, u));
                if (kept_gate) {
                  Value* kept = kept_gate + (j + i + p) * D + d + c;
                  store(kept, g), store(kept + J * D, u);
                }
              }
              store_pair(inner + (j + i) * D + kPair * (d + c), out);
            }
        }
      for (Index d = 0; d < D; d += n) product(L, n, J, l.mix_down, J, inner + kPair * d, D, wide + d, D);
      if (s.rms_gated)
        for (Index d = 0; d < D; d += kLanes) {
          const Vector factor = rms_factor(load(factors + d), J, s.eps);
          store(factors + d, factor);
          if (keep) store(keep->scale_mix_inner + (row + r) * D + d, factor);
        }
      float* scale = keep ? keep->scale_between + (row + r) * D : nullptr;
      add_and_norm_columns(wide, s.rms_gated ? factors : nullptr, h, L, D, s.eps, to, scale);
    }
  }

  const Shape& s;
  const Index W, ld;  // `ld`: stride between rows of scores, in whole vectors
  FewPositions few;
  Value *q, *k, *v, *mixed, *keys, *values, *weights, *pairs, *inner;
  float *wide, *block, *scores, *factors;
  float* before;  // (I): of the convolution, values of the position before a tile
};

}  // namespace
