// Backward pass of one application of a network of units, from the tensors that `UnitsForward` saved.

namespace {

constexpr Index kPairsAhead = 32;  // of gate and up to fetch ahead

class UnitsBackward : Units {
 public:
  UnitsBackward(const UnitShape& s, const Right* layer, Arena& arena) : Units(s, arena) {
    auto left = [&](Index columns, Index positions) {
      const Index ld = multiple(positions, 32);
      return LeftSide{arena.take<Value>(columns * ld), ld};
    };
    auto right = [&](Index columns, Index positions) {
      const Index ld = multiple(positions, 32);
      return RightSide{arena.take<Value>(columns * ld), ld, layer[0].block};
    };
    before_left = left(D, kPairs), after_left = left(D, kPairs);
    gate_up_right = right(2 * I, kPairs), inner_right = right(I, kPairs);
    pooled_left = left(P, R), maps_right = right(2 * I, R);
    g = arena.take<Value>(s.length * D);
    narrow = arena.take<Value>(kPairs * D);
    inner = arena.take<Value>(kPairs * I);
    grad_inner = arena.take<float>(kPairs * I);
    grad_gate_up = arena.take<Value>(s.length * 2 * I);
    grad_maps = arena.take<Value>(R * 2 * I);
    grad_pooled = arena.take<float>(R * P);
    grad_h = arena.take<float>(s.length * D);
  }

  // Rows [from, to): input gradient from the output gradient; weight gradients are added to `grads`.
  void run(const Right* layers, const UnitKept* kept, UnitGradients* grads, const Value* grad_out, Value* grad_in,
           Index from, Index to) {
    const Index L = s.length, num_maps = 2 + s.kinds;
    for (Index row = from; row < to; ++row) {
      const Index at = row * L * D;
      for (Index i = s.layers - 1; i >= 0; --i) {
        const UnitMaps w_t(layers + (2 * i + 1) * num_maps);
        const UnitMaps of_weights(grads + i * num_maps);
        const Value* h = kept[i].before + at;
        pool(h);
        const UnitKept keep{kept[i].before + at, kept[i].after + at, kept[i].gate_up + row * L * 2 * I,
                            kept[i].scale + row * L};
        through_pairs(keep, w_t, of_weights, i == s.layers - 1 ? grad_out + at : g);
        through_pools(w_t.pooled, of_weights.pooled, h);
        spread(h, i ? g : grad_in + at);
      }
    }
    release();
  }

 private:
  // `grad_gate_up` of each pair, and `grad_h` without the part from the pools.
  void through_pairs(const UnitKept& keep, const UnitMaps<const Right>& w_t, const UnitMaps<UnitGradients>& grads,
                     const Value* grad) {
    for (Index t = 0; t < s.length; t += kPairs) {
      const Index m = std::min(kPairs, s.length - t);
      norm_back(grad + t * D, keep.after + t * D, keep.scale + t, m, D, grad_h + t * D, narrow);
      product_of_all(m, narrow, D, w_t.down, grad_inner);
      gate_back(keep.gate_up, t, m);
      product_of_all(m, grad_gate_up + t * 2 * I, 2 * I, w_t.pair, grad_h + t * D, true);
      before_left.put(keep.before + t * D, 0, m, D);
      after_left.put(narrow, 0, m, D);
      add_product(before_left, D, gate_up_right, 2 * I, m, grads.pair);
      add_product(after_left, D, inner_right, I, m, grads.down);
    }
  }

  // From `grad_inner` of m pairs from the t-th.
  void gate_back(const Value* gate_up, Index t, Index m) {
    for (Index i = 0, n = I; i < m; ++i) {
      const Value* x = gate_up + (t + i) * 2 * n;
      const float* grad = grad_inner + i * n;
      Value *to = grad_gate_up + (t + i) * 2 * n, *out = inner + i * n;
      fetch(x + kPairsAhead * 2 * n, 2 * n);
      for (Index c = 0; c < n; c += kLanes) {
        const GatedBack back = gated_back(load(x + c), load(x + n + c), load(grad + c));
        store(to + c, back.gate), store(to + n + c, back.up), store(out + c, back.out);
      }
    }
    gate_up_right.put(grad_gate_up + t * 2 * I, 2 * I, 0, m, 2 * I);
    inner_right.put(inner, I, 0, m, I);
  }

  // `grad_pooled`, divided by the number of pairs of each value.
  void through_pools(const Right* w_t, UnitGradients* grads, const Value* h) {
    sum_members();
    for_kinds([&](Index kind, Index from, Index n) {
      pooled_left.put(pooled + from * P, 0, n, P);
      maps_right.put(grad_maps + from * 2 * I, 2 * I, 0, n, 2 * I);
      add_product(pooled_left, P, maps_right, 2 * I, n, grads[kind]);
      product_of_all(n, grad_maps + from * 2 * I, 2 * I, w_t[kind], grad_pooled + from * P);
    });
    const Value* of_pool = pooled;
    float* grad = grad_pooled;
    for (const Pool* p = s.pools; p < s.pools + s.num_pools; ++p) {
      const Vector by = splat(1.f / p->size), one = splat(1.f);
      for (Index v = 0; v < p->vectors; ++v, of_pool += P, grad += P) {
        for (Index d = 0; d < D; d += kLanes) store(grad + d, mul(load(grad + d), by));
        if (!s.has_maximum) continue;
        for (Index d = 0; d < D; d += kLanes) {  // pairs that share the maximum share its gradient
          const Vector most = load(of_pool + D + d);
          Vector ties = splat(0.f);
          for (Index i = 0; i < p->size; ++i) {
            const Vector x = load(h + p->members[v * p->size + i] * D + d);
            ties = add_if_equal(ties, one, x, most);
          }
          store(grad + D + d, div(load(grad + D + d), ties));
        }
      }
    }
  }

  // `grad_maps`: for each pooled vector the sum over its pairs.
  void sum_members() {
    Value* to = grad_maps;
    for (const Pool* p = s.pools; p < s.pools + s.num_pools; ++p)
      for (Index v = 0; v < p->vectors; ++v, to += 2 * I)
        sum_rows(grad_gate_up, 2 * I, p->members + v * p->size, p->size, 2 * I, to);
  }

  // Adds `grad_pooled` of the pools that each pair is part of to `grad_h`, rounded to `to`.
  void spread(const Value* h, Value* to) {
    const bool has_maximum = s.has_maximum;
    const Index width = D, vector_width = P;
    for (Index pair = 0; pair < s.length; ++pair, h += width, to += width) {
      find_vectors(pair);
      for (Index d = 0; d < width; d += kLanes) {
        const Vector x = load(h + d);
        Vector total = load(grad_h + pair * width + d);
        for (const Index vector : vectors) {
          const float* grad = grad_pooled + vector * vector_width + d;
          total = add(total, load(grad));
          if (!has_maximum) continue;
          const Vector most = load(pooled + vector * vector_width + width + d);
          total = add_if_equal(total, load(grad + width), x, most);
        }
        store(to + d, total);
      }
    }
  }

  LeftSide before_left, after_left, pooled_left;
  RightSide gate_up_right, inner_right, maps_right;
  Value *g, *narrow, *inner, *grad_gate_up, *grad_maps;
  float *grad_inner, *grad_pooled, *grad_h;
};

}  // namespace
