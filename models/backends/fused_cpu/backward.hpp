// Backward pass of one application, from the tensors that `Forward` saved.
//
// Rows pass through each layer in chunks. For the weight gradients a chunk is stored as a left side (columns,
// positions) and a right side in pairs of positions; one product then adds the chunk to the gradient.

namespace {

// Positions as the left side of a weight gradient (columns, ld), and as its right side in blocks of columns.
struct LeftSide {
  bf16* data;
  Index ld;
  void put(const bf16* x, Index t, Index m, Index columns) const {
    transpose_left(x, columns, m, columns, data + t, ld);
  }
};

struct RightSide {
  bf16* data;
  Index ld, block;  // capacity in positions
  bf16* at(Index t, Index column) const { return data + (column / block * ld + t) * block + 2 * (column % block); }
  void put(const bf16* x, Index ldx, Index t, Index m, Index columns) const {
    for (Index c = 0; c < columns; c += block) pair_rows(x + c, ldx, m, block, at(t, c), 2 * block);
  }
};

// grad (columns / block, D, block) += left right, over T positions.
inline void add_product(const LeftSide& left, Index D, const RightSide& right, Index columns, Index T, float* grad) {
  for (Index c = 0; c < columns; c += right.block)
    product(D, right.block, even(T), left.data, left.ld, right.at(0, c), right.block, grad + c * D, right.block, true);
}

class Backward {
 public:
  Backward(const Shape& s, const Layer& l, Arena& arena) : s(s), W(s.heads * s.head_dim), ld(multiple(s.length, 32)) {
    const Index D = s.width, I = s.inner, J = s.mix_inner, L = s.length;
    const Index T = rows_together() * L, tile = std::min(T, kGroup), wide_ld = multiple(T, 32);
    auto left = [&](Index columns) { return LeftSide{arena.take<bf16>(columns * wide_ld), wide_ld}; };
    auto right = [&](Index columns, Index block) {
      return RightSide{arena.take<bf16>(columns * wide_ld), wide_ld, block};
    };
    after_left = left(D), between_left = left(D);
    gate_up_right = right(2 * I, l.gate_up.block), inner_right = right(I, l.gate_up.block);
    g = arena.take<bf16>(T * D);
    residual = arena.take<bf16>(T * D);
    grad_gate_up = arena.take<bf16>(std::max(tile * 2 * I, 2 * J * D));
    wide = arena.take<float>(std::max(tile, J ? L : 0) * D);
    narrow = arena.take<bf16>(std::max(tile, J ? L : 0) * D);
    block = arena.take<float>(std::max(tile, kMixed) * kWidest);
    const Index most = std::max(tile, D);
    ones = arena.take<float>(most), slopes = arena.take<float>(most);
    std::fill(ones, ones + most, 1.f);
    std::fill(slopes, slopes + most, 0.f);
    grad_inner = arena.take<float>(s.rms_gated ? std::max(tile * I, J * D) : 0);
    if (J) {
      mix_inner = arena.take<bf16>(J * D);
      grad_pairs = arena.take<bf16>(2 * J * D);
      input_right = arena.take<bf16>(D * ld);
      narrow_right = arena.take<bf16>(D * ld);
      narrow_pairs = arena.take<bf16>(D * ld);
    } else {
      out_left = left(D), before_left = left(D);
      mixed_right = right(W, l.out_t.block), qkv_right = right(3 * W, l.qkv.block);
      grad_mixed = arena.take<bf16>(T * W);
      grad_qkv = arena.take<bf16>(T * 3 * W);
      const Index H = s.head_dim;
      queries_right = arena.take<bf16>(H * ld), mixed_heads_right = arena.take<bf16>(H * ld);
      query_pairs = arena.take<bf16>(H * ld), mixed_pairs = arena.take<bf16>(H * ld);
      keys_left = arena.take<bf16>(H * ld);
      weights = arena.take<bf16>(ld * kQueries), grad_scores = arena.take<bf16>(ld * kQueries);
      score_pairs = arena.take<bf16>(ld * kQueries);
      scores = arena.take<float>(ld * kQueries), grad_weights = arena.take<float>(ld * kQueries);
      grad_k = arena.take<float>(ld * H), grad_v = arena.take<float>(ld * H);
      grad_q_t = arena.take<float>(H * kQueries), grad_q = arena.take<float>(H * kQueries);
    }
  }

  // Rows [from, to): input gradient from the output gradient; weight gradients are added to `grads`.
  void run(const Layer* layers, const Kept* kept, const Gradients* grads, const bf16* grad_out, bf16* grad_in,
           Index from, Index to) {
    const Index L = s.length, D = s.width, step = rows_together();
    for (Index row = from; row < to; row += step) {
      const Index n = std::min(step, to - row), at = row * L * D;
      for (Index i = s.layers - 1; i >= 0; --i) {
        const bf16* grad = i == s.layers - 1 ? grad_out + at : g;
        bf16* target = i ? g : grad_in + at;
        feed_forward(layers[i], kept[i], grads[i], grad, row, n);
        if (s.mix_inner)
          mix(layers[i], kept[i], grads[i], target, row, n);
        else
          attend(layers[i], kept[i], grads[i], target, row, n);
      }
    }
    at::native::cpublas::brgemm_release(true);
  }

 private:
  Index rows_together() const { return std::max<Index>(1, kChunk / s.length); }

  // Stores the gradient in `residual`: with attention of the sum before rms, else of the output of rms.
  void feed_forward(const Layer& l, const Kept& keep, const Gradients& grads, const bf16* grad, Index row, Index rows) {
    const Index L = s.length, D = s.width, I = s.inner, T = rows * L, at = row * L, n = l.gate_up.block;
    for (Index t = 0; t < T; t += kGroup) {
      const Index m = std::min(kGroup, T - t), place = at + t;
      const bf16* between = keep.between + place * D;
      norm_back(grad + t * D, keep.after + place * D, keep.scale_after + place, m, D, wide, narrow);
      after_left.put(narrow, t, m, D);
      between_left.put(between, t, m, D);
      auto gate_up = [&](Index j) { return keep.gate_up + (j * s.rows * L + place * n) * 2; };
      const float* scale = s.rms_gated ? keep.scale_inner + place : ones;
      if (s.rms_gated) {
        std::fill(slopes, slopes + m, 0.f);
        for (Index j = 0; j < I; j += n) {
          product(m, narrow, D, l.down_t, j / n, grad_inner + j, I);
          add_dots(gate_up(j), m, j, n);
        }
        for (Index i = 0; i < m; i += kLanes) {
          const __mmask16 mask = first(m - i);
          const __m512 slope = rms_slope(load(scale + i, mask), load(slopes + i, mask), I);
          _mm512_mask_storeu_ps(slopes + i, mask, slope);
        }
      }
      for (Index j = 0; j < I; j += n) {
        if (!s.rms_gated) product(m, narrow, D, l.down_t, j / n, block, n);
        gate_back(gate_up(j), s.rms_gated ? grad_inner + j : block, s.rms_gated ? I : n, scale, t, m, j, n);
      }
      for (Index j = 0; j < blocks(l.gate_up_t); ++j)
        product(m, grad_gate_up, 2 * I, l.gate_up_t, j, wide + j * l.gate_up_t.block, D, true);
      if (s.mix_inner) {
        for (Index i = 0; i < m * D; i += kLanes) store(residual + t * D + i, load(wide + i));
        continue;
      }
      norm_back(wide, between, keep.scale_between + place, m, D, wide, residual + t * D);
      out_left.put(residual + t * D, t, m, D);
      for (Index j = 0; j < blocks(l.out_t); ++j) {
        product(m, residual + t * D, D, l.out_t, j, block, l.out_t.block);
        for (Index i = 0; i < m; ++i)
          copy(block + i * l.out_t.block, l.out_t.block, grad_mixed + (t + i) * W + j * l.out_t.block);
      }
    }
    add_product(between_left, D, gate_up_right, 2 * I, T, grads.gate_up);
    add_product(after_left, D, inner_right, I, T, grads.down);
  }

  // Columns [j, j + n) of the input of `rms_slope`, for m positions.
  void add_dots(const bf16* gate_up, Index m, Index j, Index n) {
    for (Index i = 0; i < m; ++i, gate_up += 2 * n) {
      __m512 dot = _mm512_setzero_ps();
      for (Index c = 0; c < n; c += kLanes)
        dot = _mm512_fmadd_ps(gated(load(gate_up + c), load(gate_up + n + c)), load(grad_inner + i * s.inner + j + c),
                              dot);
      slopes[i] += _mm512_reduce_add_ps(dot);
    }
  }

  // Columns [j, j + n) of gate and up for m positions, from the gradient of the gated product, (m, ld).
  void gate_back(const bf16* gate_up, const float* grad, Index ld, const float* scale, Index t, Index m, Index j,
                 Index n) {
    const Index I = s.inner;
    for (Index i = 0; i < m; i += 2) {
      const bool last = i + 1 == m;
      for (Index c = 0; c < n; c += kLanes) {
        __m256i gate[2], up[2], out[2];
        for (Index r = 0; r < 2; ++r) {
          if (r && last) {
            gate[r] = up[r] = out[r] = _mm256_setzero_si256();
            continue;
          }
          const bf16* kept = gate_up + (i + r) * 2 * n + c;
          const __m512 by = _mm512_set1_ps(scale[i + r]), slope = _mm512_set1_ps(slopes[i + r]);
          const GatedBack back = gated_back(load(kept), load(kept + n), load(grad + (i + r) * ld + c), by, slope);
          gate[r] = rounded(back.gate), up[r] = rounded(back.up), out[r] = rounded(back.out);
          bf16* to = grad_gate_up + (i + r) * 2 * I + j + c;
          _mm256_storeu_si256((__m256i*)to, gate[r]);
          _mm256_storeu_si256((__m256i*)(to + I), up[r]);
        }
        _mm512_storeu_si512(gate_up_right.at(t + i, j + c), paired(gate[0], gate[1]));
        _mm512_storeu_si512(gate_up_right.at(t + i, I + j + c), paired(up[0], up[1]));
        _mm512_storeu_si512(inner_right.at(t + i, j + c), paired(out[0], out[1]));
      }
    }
  }

  void attend(const Layer& l, const Kept& keep, const Gradients& grads, bf16* to, Index row, Index rows) {
    const Index L = s.length, D = s.width, T = rows * L, at = row * L;
    for (Index r = 0; r < rows; ++r)
      for (Index head = 0; head < s.heads; ++head) attend(keep, row + r, r * L, head);
    for (Index t = 0; t < T; t += kGroup) {
      const Index m = std::min(kGroup, T - t);
      const bf16* grad = grad_qkv + t * 3 * W;
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

  // One head of one row, whose first position is the t-th of the chunk. As in arXiv 2205.14135 the weights are
  // recomputed; scores have a row per key, so that they are the left side of two products and the right of a third.
  void attend(const Kept& keep, Index row, Index t, Index head) {
    const Index L = s.length, H = s.head_dim, Le = even(L), place = row * L * W + head * H;
    const bf16 *q = keep.q + place, *k = keep.k + place, *v = keep.v + place, *mixed = keep.mixed + place;
    const bf16* grad = grad_mixed + t * W + head * H;
    const float* lse = keep.lse + (row * s.heads + head) * L;
    const float scale = 1 / std::sqrt((float)H);
    transpose(q, W / 2, L, H / 2, queries_right, ld);
    transpose(grad, W / 2, L, H / 2, mixed_heads_right, ld);
    pair_rows(q, W, L, H, query_pairs, 2 * H);
    pair_rows(grad, W, L, H, mixed_pairs, 2 * H);
    transpose_left(k, W, L, H, keys_left, ld);
    for (Index i = 0; i < L; i += kQueries) {
      const Index m = std::min(kQueries, L - i), me = even(m);
      float total[kQueries + kLanes];  // of the weights' gradients times the weights
      for (Index r = 0; r < m; ++r) {
        __m512 dot = _mm512_setzero_ps();
        for (Index d = 0; d < H; d += kLanes)
          dot = _mm512_fmadd_ps(load(grad + (i + r) * W + d), load(mixed + (i + r) * W + d), dot);
        total[r] = _mm512_reduce_add_ps(dot);
      }
      product(L, m, H, k, W, queries_right + 2 * i, ld, scores, kQueries);
      product(L, m, H, v, W, mixed_heads_right + 2 * i, ld, grad_weights, kQueries);
      scores_back(m, lse + i, total, scale);
      product(L, H, me, weights, kQueries, mixed_pairs + i * H, H, grad_v, H, i > 0);
      product(L, H, me, grad_scores, kQueries, query_pairs + i * H, H, grad_k, H, i > 0);
      product(H, m, Le, keys_left, ld, score_pairs, kQueries, grad_q_t, kQueries);
      transpose(grad_q_t, kQueries, H, m, grad_q, H);
      for (Index r = 0; r < m; ++r) turn_back(grad_q + r * H, i + r, grad_qkv + (t + i + r) * 3 * W + head * H);
    }
    for (Index i = 0; i < L; ++i) {
      bf16* to = grad_qkv + (t + i) * 3 * W + head * H;
      turn_back(grad_k + i * H, i, to + W);
      copy(grad_v + i * H, H, to + 2 * W);
    }
  }

  // Weights and the gradient of the scores, from the scores and the gradient of the weights, (L keys, m queries).
  void scores_back(Index m, const float* lse, const float* total, float scale) {
    const __m512 by = _mm512_set1_ps(scale * kLog2E), slope = _mm512_set1_ps(scale);
    for (Index j = 0; j < s.length; j += 2)
      for (Index c = 0; c < m; c += kLanes) {
        const __mmask16 mask = first(m - c);
        const __m512 shift = load(lse + c, mask), subtract = load(total + c, mask);
        __m256i pair[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (Index r = 0; r < 2 && j + r < s.length; ++r) {
          const Index at = (j + r) * kQueries + c;
          const __m512 weight = _mm512_maskz_mov_ps(mask, exp2_of(_mm512_fmsub_ps(load(scores + at, mask), by, shift)));
          const __m512 above = _mm512_sub_ps(load(grad_weights + at, mask), subtract);
          pair[r] = rounded(_mm512_mul_ps(_mm512_mul_ps(weight, above), slope));
          store(weights + at, weight);
          _mm256_storeu_si256((__m256i*)(grad_scores + at), pair[r]);
        }
        _mm512_storeu_si512(score_pairs + j * kQueries + 2 * c, paired(pair[0], pair[1]));
      }
  }

  void turn_back(const float* x, Index position, bf16* to) const {
    const Index H = s.head_dim;
    if (s.cos)
      rotate(x, s.cos + position * H, s.sin + position * H, H, to, true);
    else
      copy(x, H, to);
  }

  // From `residual`, the gradient of the output of rms, row by row.
  void mix(const Layer& l, const Kept& keep, const Gradients& grads, bf16* to, Index row, Index rows) {
    const Index L = s.length, D = s.width, J = s.mix_inner, n = block_of(D), Le = even(L);
    for (Index r = 0; r < rows; ++r, to += L * D) {
      const Index at = (row + r) * L * D;
      const bf16* gate_up = keep.mix_gate_up + (row + r) * 2 * J * D;
      norm_back_columns(residual + r * L * D, keep.between + at, keep.scale_between + (row + r) * D, L, D, wide,
                        narrow);
      pair_rows(narrow, D, L, D, narrow_pairs, 2 * D);
      transpose(narrow, D / 2, L, D / 2, narrow_right, ld);
      transpose(keep.before + at, D / 2, L, D / 2, input_right, ld);
      const float* scale = s.rms_gated ? keep.scale_mix_inner + (row + r) * D : ones;
      if (s.rms_gated) {
        for (Index d = 0; d < D; d += n)
          product(J, n, Le, l.mix_down_t, Le, narrow_pairs + 2 * d, D, grad_inner + d, D);
        mix_slopes(gate_up, scale);
      }
      for (Index j = 0; j < J; j += kMixed)
        for (Index d = 0; d < D; d += n) {
          const float* grad = s.rms_gated ? grad_inner + j * D + d : block;
          if (!s.rms_gated) product(kMixed, n, Le, l.mix_down_t + j * Le, Le, narrow_pairs + 2 * d, D, block, n);
          mix_gate_back(gate_up, grad, s.rms_gated ? D : n, scale, j, d, n);
        }
      for (Index d = 0; d < D; d += n)
        product(L, n, 2 * J, l.mix_gate_up_t, 2 * J, grad_pairs + 2 * d, D, wide + d, D, true);
      for (Index i = 0; i < L * D; i += kLanes) store(to + i, load(wide + i));
      product(2 * J, L, D, grad_gate_up, D, input_right, ld, grads.mix_gate_up, L, true);
      product(J, L, D, mix_inner, D, narrow_right, ld, grads.mix_down, L, true);
    }
  }

  // `rms_slope` of each column, from `grad_inner` (J, D).
  void mix_slopes(const bf16* gate_up, const float* scale) {
    const Index D = s.width, J = s.mix_inner;
    std::fill(slopes, slopes + D, 0.f);
    for (Index j = 0; j < J; ++j)
      for (Index d = 0; d < D; d += kLanes) {
        const __m512 out = gated(load(gate_up + j * D + d), load(gate_up + (J + j) * D + d));
        store(slopes + d, _mm512_fmadd_ps(out, load(grad_inner + j * D + d), load(slopes + d)));
      }
    for (Index d = 0; d < D; d += kLanes) store(slopes + d, rms_slope(load(scale + d), load(slopes + d), J));
  }

  // Inner rows [j, j + kMixed), columns [d, d + n), from the gradient of the gated product, (kMixed, ld).
  void mix_gate_back(const bf16* gate_up, const float* grad, Index ld, const float* scale, Index j, Index d, Index n) {
    const Index D = s.width, J = s.mix_inner;
    for (Index i = 0; i < kMixed; i += 2)
      for (Index c = 0; c < n; c += kLanes) {
        __m256i gate[2], up[2];
        for (Index r = 0; r < 2; ++r) {
          const Index at = (j + i + r) * D + d + c;
          const __m512 by = load(scale + d + c), slope = load(slopes + d + c);
          const GatedBack back =
              gated_back(load(gate_up + at), load(gate_up + J * D + at), load(grad + (i + r) * ld + c), by, slope);
          gate[r] = rounded(back.gate), up[r] = rounded(back.up);
          store(mix_inner + at, back.out);
          _mm256_storeu_si256((__m256i*)(grad_gate_up + at), gate[r]);
          _mm256_storeu_si256((__m256i*)(grad_gate_up + J * D + at), up[r]);
        }
        _mm512_storeu_si512(grad_pairs + (j + i) * D + 2 * (d + c), paired(gate[0], gate[1]));
        _mm512_storeu_si512(grad_pairs + (J + j + i) * D + 2 * (d + c), paired(up[0], up[1]));
      }
  }

  const Shape& s;
  const Index W, ld;
  LeftSide after_left, between_left, out_left, before_left;
  RightSide gate_up_right, inner_right, mixed_right, qkv_right;
  bf16 *g, *residual, *grad_gate_up, *narrow, *grad_mixed, *grad_qkv;
  bf16 *mix_inner, *grad_pairs, *input_right, *narrow_right, *narrow_pairs;
  bf16 *queries_right, *mixed_heads_right, *query_pairs, *mixed_pairs, *keys_left, *weights, *grad_scores, *score_pairs;
  float *wide, *block, *scores, *grad_weights, *grad_k, *grad_v, *grad_q_t, *grad_q;
  float *ones, *slopes, *grad_inner;
};

}  // namespace
