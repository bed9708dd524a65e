// Backward pass of one application, from the tensors that `Forward` saved.
//
// Rows pass through each layer in chunks. For the weight gradients a chunk is stored as a left side (columns,
// positions) and a right side (bfloat16.hpp); one product then adds the chunk to the gradient.

namespace {

// Positions as the left side of a weight gradient (columns, ld), and as its right side in blocks of columns.
struct LeftSide {
  Value* data;
  Index ld;
  void put(const Value* x, Index t, Index m, Index columns) const {
    transpose_left(x, columns, m, columns, data + t, ld);
  }
};

struct RightSide {
  Value* data;
  Index ld, block;  // capacity in positions
  Value* at(Index t, Index column) const { return data + (column / block * ld + t) * block + kPair * (column % block); }
  void put(const Value* x, Index ldx, Index t, Index m, Index columns) const {
    for (Index c = 0; c < columns; c += block) pair_rows(x + c, ldx, m, block, at(t, c), kPair * block);
  }
};

// grad (columns / block, D, block) += left right, over T positions.
inline void add_product(const LeftSide& left, Index D, const RightSide& right, Index columns, Index T, float* grad) {
  for (Index c = 0; c < columns; c += right.block)
    product(D, right.block, whole_pairs(T), left.data, left.ld, right.at(0, c), right.block, grad + c * D, right.block, true);
}

constexpr Index kAhead = 16;  // positions of gate and up to fetch ahead

class Backward {
 public:
  Backward(const Shape& s, const Layer& l, Arena& arena)
      : s(s), W(s.heads * s.head_dim), ld(multiple(s.length, 32)), few(s.length, s.head_dim, W, arena) {
    const Index D = s.width, I = s.inner, J = s.mix_inner, L = s.length;
    const Index T = rows_together() * L, tile = std::min(T, kGroup), wide_ld = multiple(T, 32);
    auto left = [&](Index columns) { return LeftSide{arena.take<Value>(columns * wide_ld), wide_ld}; };
    auto right = [&](Index columns, Index block) {
      return RightSide{arena.take<Value>(columns * wide_ld), wide_ld, block};
    };
    g = arena.take<Value>(T * D);
    residual = arena.take<Value>(T * D);
    grad_gate_up = arena.take<Value>(std::max(tile * 2 * I, 2 * J * D));
    wide = arena.take<float>(std::max(tile, J ? L : 0) * D);
    narrow = arena.take<Value>(std::max(tile, J ? L : 0) * D);
    block = arena.take<float>(std::max(tile, kMixed) * kWidest);
    const Index most = std::max(tile, D);
    ones = arena.take<float>(most), slopes = arena.take<float>(most);
    std::fill(ones, ones + most, 1.f);
    std::fill(slopes, slopes + most, 0.f);
    grad_inner = arena.take<float>(s.rms_gated ? std::max(tile * I, J * D) : 0);
    after = arena.take<float>(I);
    if (!J) out_left = left(D), grad_mixed = arena.take<Value>(T * W);
    auto of_feed_forward = [&] {
      gate_up_right = right(2 * I, l.gate_up.block), inner_right = right(I, l.gate_up.block);
      after_left = left(D), between_left = left(D);
    };
    auto of_mix = [&] {
      mix_inner = arena.take<Value>(J * D);
      grad_pairs = arena.take<Value>(2 * J * D);
      input_right = arena.take<Value>(D * ld);
      narrow_right = arena.take<Value>(D * ld);
      narrow_pairs = arena.take<Value>(D * ld);
    };
    auto of_attend = [&] {
      const Index H = s.head_dim;
      qkv_right = right(3 * W, l.qkv.block), grad_qkv = arena.take<Value>(T * 3 * W);
      mixed_right = right(W, l.out_t.block), before_left = left(D);
      scores = arena.take<float>(ld * kQueries), grad_weights = arena.take<float>(ld * kQueries);
      weights = arena.take<Value>(ld * kQueries), grad_scores = arena.take<Value>(ld * kQueries);
      score_pairs = arena.take<Value>(ld * kQueries);
      queries_right = arena.take<Value>(H * ld), mixed_heads_right = arena.take<Value>(H * ld);
      query_pairs = arena.take<Value>(H * ld), mixed_pairs = arena.take<Value>(H * ld);
      keys_left = arena.take<Value>(H * ld);
      grad_k = arena.take<float>(ld * H), grad_v = arena.take<float>(ld * H);
      grad_q_t = arena.take<float>(H * kQueries), grad_q = arena.take<float>(H * kQueries);
    };
    J ? arena.share(of_feed_forward, of_mix) : arena.share(of_feed_forward, of_attend);
  }

  // Rows [from, to): input gradient from the output gradient; weight gradients are added to `grads`.
  void run(const Layer* layers, const Kept* kept, const Gradients* grads, const Value* grad_out, Value* grad_in,
           Index from, Index to) {
    const Index L = s.length, D = s.width, step = rows_together();
    for (Index row = from; row < to; row += step) {
      const Index n = std::min(step, to - row), at = row * L * D;
      for (Index i = s.layers - 1; i >= 0; --i) {
        const Value* grad = i == s.layers - 1 ? grad_out + at : g;
        Value* target = i ? g : grad_in + at;
        feed_forward(layers[i], kept[i], grads[i], grad, row, n);
        if (s.mix_inner)
          mix(layers[i], kept[i], grads[i], target, row, n);
        else
          attend(layers[i], kept[i], grads[i], target, row, n);
      }
    }
    release();
  }

  // Rows that the methods below take at most.
  Index rows_together() const { return std::max<Index>(1, kChunk / s.length); }

  // Stores the gradient in `residual`: with attention of the sum before rms, else of the output of rms.
  void feed_forward(const Layer& l, const Kept& keep, const Gradients& grads, const Value* grad, Index row, Index rows) {
    const Index L = s.length, D = s.width, I = s.inner, T = rows * L, at = row * L, n = l.gate_up.block;
    for (Index t = (T - 1) / kGroup * kGroup; t >= 0; t -= kGroup) {  // in the convolution's order
      const Index m = std::min(kGroup, T - t), place = at + t;
      norm_back(grad + t * D, keep.after + place * D, keep.scale_after + place, m, D, wide, narrow);
      after_left.put(narrow, t, m, D);
      between_left.put(keep.between + place * D, t, m, D);
      auto gate_up = [&](Index j) { return keep.gate_up + (j * s.rows * L + place * n) * 2; };
      const float* scale = s.rms_gated ? keep.scale_inner + place : ones;
      if (s.rms_gated) {
        std::fill(slopes, slopes + m, 0.f);
        for (Index j = 0; j < I; j += n) {
          product(m, narrow, D, l.down_t, j / n, grad_inner + j, I);
          add_dots(gate_up(j), m, j, n);
        }
        for (Index i = 0; i < m; i += kLanes) {
          const Mask mask = first(m - i);
          const Vector slope = rms_slope(load(scale + i, mask), load(slopes + i, mask), I);
          store(slopes + i, slope, mask);
        }
      }
      for (Index j = 0; j < I; j += n) {
        fetch(gate_up(j), std::min(kAhead, m) * 2 * n);
        if (!s.rms_gated) product(m, narrow, D, l.down_t, j / n, block, n);
        if (l.conv_taps) {
          convolution_back(l, grads, gate_up(j), t, m, j, n);
          continue;
        }
        gate_back(gate_up(j), s.rms_gated ? grad_inner + j : block, s.rms_gated ? I : n, scale, t, m, j, n);
      }
      for (Index j = 0; j < blocks(l.gate_up_t); ++j)
        product(m, grad_gate_up, 2 * I, l.gate_up_t, j, wide + j * l.gate_up_t.block, D, true);
      if (s.mix_inner) {
        for (Index i = 0; i < m * D; i += kLanes) store(residual + t * D + i, load(wide + i));
        continue;
      }
      attended_norm(l, keep, wide, place, t, m);
    }
    add_product(between_left, D, gate_up_right, 2 * I, T, grads.gate_up);
    add_product(after_left, D, inner_right, I, T, grads.down);
  }

  // What `attend` needs, from the gradient of the output of rms.
  void attended_norm(const Layer& l, const Kept& keep, const Value* grad, Index row, Index rows) {
    const Index T = rows * s.length, at = row * s.length;
    for (Index t = 0; t < T; t += kGroup)
      attended_norm(l, keep, grad + t * s.width, at + t, t, std::min(kGroup, T - t));
  }

  // From `residual` and `grad_mixed`, the gradient of the input.
  void attend(const Layer& l, const Kept& keep, const Gradients& grads, Value* to, Index row, Index rows) {
    const Index L = s.length, D = s.width, T = rows * L, at = row * L;
    for (Index r = 0; r < rows; ++r)
      for (Index head = 0; head < s.heads; ++head) {
        if (r + 1 < rows) {
          const Index share = L * W / s.heads, next = (row + r + 1) * L * W + head * share;
          for (const Value* x : {keep.q, keep.k, keep.v, keep.mixed}) fetch(x + next, share);
        }
        attend(keep, row + r, r * L, head);
      }
    for (Index t = 0; t < T; t += kGroup) {
      const Index m = std::min(kGroup, T - t);
      const Value* grad = grad_qkv + t * 3 * W;
      before_left.put(keep.before + (at + t) * D, t, m, D);
      mixed_right.put(keep.mixed + (at + t) * W, W, t, m, W);
      qkv_right.put(grad, 3 * W, t, m, 3 * W);
      for (Index i = 0; i < m * D; i += kLanes) store(wide + i, load(residual + t * D + i));
      for (Index j = 0; j < blocks(l.qkv_t); ++j)
        product(m, grad, 3 * W, l.qkv_t, j, wide + j * l.qkv_t.block, D, true);
      for (Index i = 0; i < m * D; i += kLanes) store(to + t * D + i, load(wide + i));
    }
    add_product(before_left, D, qkv_right, 3 * W, T, grads.qkv);
    add_product(out_left, D, mixed_right, W, T, grads.out);
  }

 private:
  // `residual` and `grad_mixed` of m positions, the t-th of the chunk and `place`-th of the batch.
  template <typename G>
  void attended_norm(const Layer& l, const Kept& keep, const G* grad, Index place, Index t, Index m) {
    const Index D = s.width;
    norm_back(grad, keep.between + place * D, keep.scale_between + place, m, D, wide, residual + t * D);
    out_left.put(residual + t * D, t, m, D);
    for (Index j = 0; j < blocks(l.out_t); ++j) {
      product(m, residual + t * D, D, l.out_t, j, block, l.out_t.block);
      for (Index i = 0; i < m; ++i)
        copy(block + i * l.out_t.block, l.out_t.block, grad_mixed + (t + i) * W + j * l.out_t.block);
    }
  }

  // Columns [j, j + n) of the input of `rms_slope`, for m positions.
  void add_dots(const Value* gate_up, Index m, Index j, Index n) {
    for (Index i = 0; i < m; ++i, gate_up += 2 * n) {
      Vector dot = splat(0.f);
      for (Index c = 0; c < n; c += kLanes)
        dot = fmadd(gated(load(gate_up + c), load(gate_up + n + c)), load(grad_inner + i * s.inner + j + c),
                              dot);
      slopes[i] += sum_of(dot);
    }
  }

  // Columns [j, j + n) of gate and up for m positions, from `block`, the gradient of the convolved product.
  void convolution_back(const Layer& l, const Gradients& grads, const Value* gate_up, Index t, Index m, Index j,
                        Index n) {
    const Taps taps(l.conv_taps, l.conv_bias, s.inner);
    const TapGradients of_taps(grads.conv_taps, grads.conv_bias, s.inner);
    for (Index c = 0; c < n; c += kLanes)
      ConvolutionBack(taps, of_taps, j + c, after + j + c)
          .run(gate_up + c, 2 * n, n, block + c, n, m, t, s.length,
               [&](Index i, const Rounded* gate, const Rounded* up, const Rounded* out) {
                 put_gradients(t, i, std::min(kPair, m - i), j + c, gate, up, out);
               });
  }

  // Columns [j, j + n) of gate and up for m positions, from the gradient of the gated product, (m, ld).
  void gate_back(const Value* gate_up, const float* grad, Index ld, const float* scale, Index t, Index m, Index j,
                 Index n) {
    for (Index i = 0; i < m; i += kPair) {
      const Index together = std::min(kPair, m - i);
      if (i + kAhead < m) fetch(gate_up + (i + kAhead) * 2 * n, std::min(kPair, m - i - kAhead) * 2 * n);
      for (Index c = 0; c < n; c += kLanes) {
        Rounded gate[kPair]{}, up[kPair]{}, out[kPair]{};
        for (Index p = 0; p < together; ++p) {
          const Value* kept = gate_up + (i + p) * 2 * n + c;
          const Vector by = splat(scale[i + p]), slope = splat(slopes[i + p]);
          const GatedBack back = gated_back(load(kept), load(kept + n), load(grad + (i + p) * ld + c), by, slope);
          gate[p] = rounded(back.gate), up[p] = rounded(back.up), out[p] = rounded(back.out);
        }
        put_gradients(t, i, together, j + c, gate, up, out);
      }
    }
  }

  // n rows, at most a pair, from the i-th of the positions from t.
  void put_gradients(Index t, Index i, Index n, Index column, const Rounded* gate, const Rounded* up,
                     const Rounded* out) {
    const Index I = s.inner;
    for (Index p = 0; p < n; ++p) {
      Value* to = grad_gate_up + (i + p) * 2 * I + column;
      store(to, gate[p]);
      store(to + I, up[p]);
    }
    store_pair(gate_up_right.at(t + i, column), gate);
    store_pair(gate_up_right.at(t + i, I + column), up);
    store_pair(inner_right.at(t + i, column), out);
  }

  // One head of one row, whose first position is the t-th of the chunk. As in arXiv 2205.14135 the weights are
  // recomputed; scores have a row per key, so that they are the left side of two products and the right of a third.
  void attend(const Kept& keep, Index row, Index t, Index head) {
    const Index L = s.length, H = s.head_dim, Lp = whole_pairs(L), place = row * L * W + head * H;
    const Value *q = keep.q + place, *k = keep.k + place, *v = keep.v + place, *mixed = keep.mixed + place;
    const Value* grad = grad_mixed + t * W + head * H;
    if (L <= kFew) return few.backward(q, k, v, grad, s.cos, s.sin, grad_qkv + t * 3 * W + head * H, 3 * W, W);
    const float* lse = keep.lse + (row * s.heads + head) * L;
    const float scale = 1 / std::sqrt((float)H);
    transpose(q, W / kPair, L, H / kPair, queries_right, ld);
    transpose(grad, W / kPair, L, H / kPair, mixed_heads_right, ld);
    pair_rows(q, W, L, H, query_pairs, kPair * H);
    pair_rows(grad, W, L, H, mixed_pairs, kPair * H);
    transpose_left(k, W, L, H, keys_left, ld);
    for (Index i = 0; i < L; i += kQueries) {
      const Index m = std::min(kQueries, L - i), mp = whole_pairs(m), n = multiple(m, kLanes);
      float total[kQueries + kLanes];  // of the weights' gradients times the weights
      for (Index r = 0; r < m; ++r) {
        Vector dot = splat(0.f);
        for (Index d = 0; d < H; d += kLanes)
          dot = fmadd(load(grad + (i + r) * W + d), load(mixed + (i + r) * W + d), dot);
        total[r] = sum_of(dot);
      }
      product(L, n, H, k, W, queries_right + kPair * i, ld, scores, kQueries);
      product(L, n, H, v, W, mixed_heads_right + kPair * i, ld, grad_weights, kQueries);
      scores_back(m, lse + i, total, scale);
      product(L, H, mp, weights, kQueries, mixed_pairs + i * H, H, grad_v, H, i > 0);
      product(L, H, mp, grad_scores, kQueries, query_pairs + i * H, H, grad_k, H, i > 0);
      product(H, n, Lp, keys_left, ld, score_pairs, kQueries, grad_q_t, kQueries);
      transpose(grad_q_t, kQueries, H, m, grad_q, H);
      for (Index r = 0; r < m; ++r) turn_back(grad_q + r * H, i + r, grad_qkv + (t + i + r) * 3 * W + head * H);
    }
    for (Index i = 0; i < L; ++i) {
      Value* to = grad_qkv + (t + i) * 3 * W + head * H;
      turn_back(grad_k + i * H, i, to + W);
      copy(grad_v + i * H, H, to + 2 * W);
    }
  }

  // Weights and the gradient of the scores, from the scores and the gradient of the weights, (L keys, m queries).
  void scores_back(Index m, const float* lse, const float* total, float scale) {
    const Vector by = splat(scale * kLog2E), slope = splat(scale);
    for (Index j = 0; j < s.length; j += kPair)
      for (Index c = 0; c < m; c += kLanes) {
        const Mask mask = first(m - c);
        const Vector shift = load(lse + c, mask), subtract = load(total + c, mask);
        Rounded pair[kPair];
        for (Index p = 0; p < kPair; ++p) {
          pair[p] = Rounded{};
          if (j + p == s.length) continue;
          const Index at = (j + p) * kQueries + c;
          const Vector weight = where(mask, exp2_of(fmsub(load(scores + at, mask), by, shift)));
          const Vector above = sub(load(grad_weights + at, mask), subtract);
          pair[p] = rounded(mul(mul(weight, above), slope));
          store(weights + at, weight);
          store(grad_scores + at, pair[p]);
        }
        store_pair(score_pairs + j * kQueries + kPair * c, pair);
      }
  }

  void turn_back(const float* x, Index position, Value* to) const {
    const Index H = s.head_dim;
    if (s.cos)
      rotate(x, s.cos + position * H, s.sin + position * H, H, to, true);
    else
      copy(x, H, to);
  }

  // From `residual`, the gradient of the output of rms, row by row.
  void mix(const Layer& l, const Kept& keep, const Gradients& grads, Value* to, Index row, Index rows) {
    const Index L = s.length, D = s.width, J = s.mix_inner, n = block_of(D), Lp = whole_pairs(L);
    for (Index r = 0; r < rows; ++r, to += L * D) {
      const Index at = (row + r) * L * D;
      const Value* gate_up = keep.mix_gate_up + (row + r) * 2 * J * D;
      norm_back_columns(residual + r * L * D, keep.between + at, keep.scale_between + (row + r) * D, L, D, wide,
                        narrow);
      pair_rows(narrow, D, L, D, narrow_pairs, kPair * D);
      transpose(narrow, D / kPair, L, D / kPair, narrow_right, ld);
      transpose(keep.before + at, D / kPair, L, D / kPair, input_right, ld);
      const float* scale = s.rms_gated ? keep.scale_mix_inner + (row + r) * D : ones;
      if (s.rms_gated) {
        for (Index d = 0; d < D; d += n)
          product(J, n, Lp, l.mix_down_t, Lp, narrow_pairs + kPair * d, D, grad_inner + d, D);
        mix_slopes(gate_up, scale);
      }
      for (Index j = 0; j < J; j += kMixed)
        for (Index d = 0; d < D; d += n) {
          const float* grad = s.rms_gated ? grad_inner + j * D + d : block;
          if (!s.rms_gated) product(kMixed, n, Lp, l.mix_down_t + j * Lp, Lp, narrow_pairs + kPair * d, D, block, n);
          mix_gate_back(gate_up, grad, s.rms_gated ? D : n, scale, j, d, n);
        }
      for (Index d = 0; d < D; d += n)
        product(L, n, 2 * J, l.mix_gate_up_t, 2 * J, grad_pairs + kPair * d, D, wide + d, D, true);
      for (Index i = 0; i < L * D; i += kLanes) store(to + i, load(wide + i));
      product(2 * J, L, D, grad_gate_up, D, input_right, ld, grads.mix_gate_up, L, true);
      product(J, L, D, mix_inner, D, narrow_right, ld, grads.mix_down, L, true);
    }
  }

  // `rms_slope` of each column, from `grad_inner` (J, D).
  void mix_slopes(const Value* gate_up, const float* scale) {
    const Index D = s.width, J = s.mix_inner;
    std::fill(slopes, slopes + D, 0.f);
    for (Index j = 0; j < J; ++j)
      for (Index d = 0; d < D; d += kLanes) {
        const Vector out = gated(load(gate_up + j * D + d), load(gate_up + (J + j) * D + d));
        store(slopes + d, fmadd(out, load(grad_inner + j * D + d), load(slopes + d)));
      }
    for (Index d = 0; d < D; d += kLanes) store(slopes + d, rms_slope(load(scale + d), load(slopes + d), J));
  }

  // Inner rows [j, j + kMixed), columns [d, d + n), from the gradient of the gated product, (kMixed, ld).
  void mix_gate_back(const Value* gate_up, const float* grad, Index ld, const float* scale, Index j, Index d, Index n) {
    const Index D = s.width, J = s.mix_inner;
    for (Index i = 0; i < kMixed; i += kPair)
      for (Index c = 0; c < n; c += kLanes) {
        Rounded gate[kPair], up[kPair];
        for (Index p = 0; p < kPair; ++p) {
          const Index at = (j + i + p) * D + d + c;
          const Vector by = load(scale + d + c), slope = load(slopes + d + c);
          const GatedBack back =
              gated_back(load(gate_up + at), load(gate_up + J * D + at), load(grad + (i + p) * ld + c), by, slope);
          gate[p] = rounded(back.gate), up[p] = rounded(back.up);
          store(mix_inner + at, back.out);
          store(grad_gate_up + at, gate[p]);
          store(grad_gate_up + J * D + at, up[p]);
        }
        store_pair(grad_pairs + (j + i) * D + kPair * (d + c), gate);
        store_pair(grad_pairs + (J + j + i) * D + kPair * (d + c), up);
      }
  }

  const Shape& s;
  const Index W, ld;
  FewPositions few;
  LeftSide after_left, between_left, out_left, before_left;
  RightSide gate_up_right, inner_right, mixed_right, qkv_right;
  Value *g, *residual, *grad_gate_up, *narrow, *grad_mixed, *grad_qkv;
  Value *mix_inner, *grad_pairs, *input_right, *narrow_right, *narrow_pairs;
  Value *queries_right, *mixed_heads_right, *query_pairs, *mixed_pairs, *keys_left, *weights, *grad_scores, *score_pairs;
  float *wide, *block, *scores, *grad_weights, *grad_k, *grad_v, *grad_q_t, *grad_q;
  float *ones, *slopes, *grad_inner;
  float* after;  // (I): of the convolution, gradients of the position after a tile
};

}  // namespace
