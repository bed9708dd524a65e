// Attention over at most kFew positions, with products of their own: one head of a row at a time.
//
// Scores are laid out keys by queries, so that maxima and sums over the keys go by whole vectors. The gradient
// computes the weights again.

namespace {

// For rows of L positions with heads of H columns; `stride`: columns between a head's positions.
class FewPositions {
 public:
  FewPositions(Index L, Index H, Index stride, Arena& arena)
      : L(L), H(H), stride(stride), ld(multiple(L, kLanes)), by(1 / std::sqrt((float)H)) {
    const bool used = L <= kFew;
    const auto take = [&](Index n) { return arena.take<Value>(used ? n : 0); };
    queries_right = take(H * ld), grad_right = take(H * ld);
    query_pairs = take(H * ld), key_pairs = take(H * ld), value_pairs = take(H * ld);
    weights = take(ld * ld), grad_scores = take(ld * ld), pairs = take(ld * ld), turned = take(ld * ld);
    scores = arena.take<float>(used ? ld * ld : 0), grad_weights = arena.take<float>(used ? ld * ld : 0);
    grad_q = arena.take<float>(used ? ld * H : 0), grad_k = arena.take<float>(used ? ld * H : 0);
  }

  void forward(const Value* q, const Value* k, const Value* v, Value* out) {
    transpose(q, stride / kPair, L, H / kPair, queries_right, ld);
    few_product(L, ld, H, k, stride, queries_right, ld, scores, ld);
    for (Index c = 0; c < ld; c += kLanes) {
      const Vector inverse = exponentials(c);
      for (Index j = 0; j < L; j += kPair) {
        Rounded rows[kPair];
        for (Index p = 0; p < kPair; ++p) rows[p] = rounded(weight(j + p, c, inverse));
        store_pair(pairs + j * ld + kPair * c, rows);
      }
    }
    transpose(pairs, ld, whole_pairs(L) / kPair, L, turned, ld / kPair);
    pair_rows(v, stride, L, H, value_pairs, kPair * H);
    few_product(L, H, whole_pairs(L), turned, ld, value_pairs, H, out, stride);
  }

  // Gradients of queries, keys and values, each `to_stride` columns between positions and `apart` from the other.
  void backward(const Value* q, const Value* k, const Value* v, const Value* grad, const float* cos, const float* sin,
                Value* to, Index to_stride, Index apart) {
    transpose(q, stride / kPair, L, H / kPair, queries_right, ld);
    transpose(grad, stride / kPair, L, H / kPair, grad_right, ld);
    few_product(L, ld, H, k, stride, queries_right, ld, scores, ld);
    few_product(L, ld, H, v, stride, grad_right, ld, grad_weights, ld);
    for (Index c = 0; c < ld; c += kLanes) scores_back(c);
    transpose(pairs, ld, whole_pairs(L) / kPair, L, turned, ld / kPair);
    pair_rows(grad, stride, L, H, value_pairs, kPair * H);
    pair_rows(q, stride, L, H, query_pairs, kPair * H);
    pair_rows(k, stride, L, H, key_pairs, kPair * H);
    few_product(L, H, whole_pairs(L), weights, ld, value_pairs, H, to + 2 * apart, to_stride);
    if (!cos) {
      few_product(L, H, whole_pairs(L), turned, ld, key_pairs, H, to, to_stride);
      few_product(L, H, whole_pairs(L), grad_scores, ld, query_pairs, H, to + apart, to_stride);
      return;
    }
    few_product(L, H, whole_pairs(L), turned, ld, key_pairs, H, grad_q, H);
    few_product(L, H, whole_pairs(L), grad_scores, ld, query_pairs, H, grad_k, H);
    for (Index i = 0; i < L; ++i, to += to_stride) {
      rotate(grad_q + i * H, cos + i * H, sin + i * H, H, to, true);
      rotate(grad_k + i * H, cos + i * H, sin + i * H, H, to + apart, true);
    }
  }

 private:
  // Replaces the scores of a vector of queries by exponentials; returns the inverse of their sums.
  Vector exponentials(Index c) {
    const Vector scale = splat(by * kLog2E);
    Vector most = load(scores + c), total = splat(0.f);
    for (Index j = 1; j < L; ++j) most = larger(most, load(scores + j * ld + c));
    most = mul(most, scale);
    for (Index j = 0; j < L; ++j) {
      const Vector x = exp2_of(fmsub(load(scores + j * ld + c), scale, most));
      store(scores + j * ld + c, x);
      total = add(total, x);
    }
    return div(splat(1.f), total);
  }

  // Of key j, 0 if there is none.
  Vector weight(Index j, Index c, Vector inverse) const {
    return j < L ? mul(load(scores + j * ld + c), inverse) : splat(0.f);
  }

  // Weights and the gradient of the scores, zero beyond the last query.
  void scores_back(Index c) {
    const Mask mask = first(L - c);
    const Vector inverse = exponentials(c), slope = splat(by);
    Vector total = splat(0.f);
    for (Index j = 0; j < L; ++j)
      total = fmadd(load(scores + j * ld + c), load(grad_weights + j * ld + c), total);
    total = mul(total, inverse);
    for (Index j = 0; j < L; j += kPair) {
      Rounded back[kPair]{};
      for (Index p = 0; p < std::min(kPair, L - j); ++p) {
        const Index at = (j + p) * ld + c;
        const Vector y = where(mask, weight(j + p, c, inverse)), above = sub(load(grad_weights + at), total);
        back[p] = rounded(where(mask, mul(mul(y, above), slope)));
        store(weights + at, y);
        store(grad_scores + at, back[p]);
      }
      store_pair(pairs + j * ld + kPair * c, back);
    }
  }

  const Index L, H, stride, ld;
  const float by;
  Value *queries_right, *grad_right, *query_pairs, *key_pairs, *value_pairs;
  Value *weights, *grad_scores;  // (keys, queries)
  Value *pairs, *turned;         // (pairs of keys, queries, 2), (queries, keys)
  float *scores, *grad_weights, *grad_q, *grad_k;
};

}  // namespace
