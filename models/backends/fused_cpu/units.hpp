// One application of a network of units: h = rms(h + down(silu(gate) up)), layer after layer, and its gradient.
//
// Gate and up of a pair are a sum of maps: of the pair itself and of the pools that contain it, its cell over the
// symbols and each unit over the cells. One row of the batch passes through a layer before the next row, so that
// intermediate results stay in a core's L2 cache. The backward pass recomputes them from the layer's input.
// Sizes: L pairs, D width, I inner width, R vectors of all pools, P their width (D, or 2 D: mean and maximum).

extern "C" {

// Vectors pooled over `size` pairs of a row each. Pools with maps of one kind are adjacent.
struct Pool {
  const int32_t *members, *of_pair;  // (vectors, size) pairs; (L) the vector of this pool that each pair is part of
  Index vectors, size, kind;
};

struct UnitShape {
  Index rows, length, width, inner, layers, kinds, num_pools, has_maximum;
  float eps;
  const Pool* pools;
};

// Tensors of a layer saved for the backward pass, for all rows of the batch.
struct UnitKept {
  Value *before, *after;  // (B L, D)
  Value* gate_up;         // (B L, 2 I)
  float* scale;          // (B L), factors of rms
};

}  // extern "C"

namespace {

constexpr Index kPairs = 96;     // pairs of a row at once
constexpr Index kAtOnce = 4;     // pools whose maps are added while gate and up are in registers

// The maps of a layer, or the sums of their gradients: of pairs, down, and of each kind of pool.
template <typename T>
struct UnitMaps {
  T pair, down, *pooled;
  explicit UnitMaps(T* all) : pair(all[0]), down(all[1]), pooled(all + 2) {}
};

using UnitGradients = float* const;

inline void product_of_all(Index m, const Value* x, Index ldx, const Right& w, float* c, bool add = false) {
  for (Index j = 0; j < blocks(w); ++j) product(m, x, ldx, w, j, c + j * w.block, w.columns, add);
}

inline Index vectors_of(const UnitShape& s) {
  Index n = 0;
  for (Index e = 0; e < s.num_pools; ++e) n += s.pools[e].vectors;
  return n;
}

// Shared by both passes, for one row: pooled vectors, their maps, and their sum in each pair's gate and up.
class Units {
 public:
  Units(const UnitShape& s, Arena& arena)
      : s(s), D(s.width), I(s.inner), P(s.has_maximum ? 2 * s.width : s.width), R(vectors_of(s)) {
    pooled = arena.take<Value>(R * P);
    maps = arena.take<float>(R * 2 * I);
    gate_up = arena.take<float>(kPairs * 2 * I);
    zeros = arena.take<float>(2 * I);
    std::fill(zeros, zeros + 2 * I, 0.f);
    vectors.resize(s.num_pools);
  }

  // `pooled` of h (L, D).
  void pool(const Value* h) {
    Value* to = pooled;
    for (const Pool* p = s.pools; p < s.pools + s.num_pools; ++p) {
      const Vector by = splat(1.f / p->size);
      for (Index v = 0; v < p->vectors; ++v, to += P) {
        const int32_t* members = p->members + v * p->size;
        for (Index d = 0; d < D; d += kLanes) {
          Vector total = splat(0.f), most = splat(-INFINITY);
          for (Index i = 0; i < p->size; ++i) {
            const Vector x = load(h + members[i] * D + d);
            total = add(total, x);
            most = larger(most, x);
          }
          store(to + d, mul(total, by));
          if (s.has_maximum) store(to + D + d, most);
        }
      }
    }
  }

  // `maps` of `pooled`.
  void map_pools(const Right* w) {
    for_kinds([&](Index kind, Index from, Index n) {
      product_of_all(n, pooled + from * P, P, w[kind], maps + from * 2 * I);
    });
  }

  // work(kind, its first vector, number of its vectors)
  template <typename Work>
  void for_kinds(Work work) const {
    Index from = 0;
    for (Index e = 0; e < s.num_pools;) {
      const Index kind = s.pools[e].kind;
      Index n = 0;
      for (; e < s.num_pools && s.pools[e].kind == kind; ++e) n += s.pools[e].vectors;
      work(kind, from, n);
      from += n;
    }
  }

  // `gate_up` of m pairs without the pools' maps, which `for_columns` adds.
  void map_pairs(const Value* h, Index m, const Right& w) { product_of_all(m, h, D, w, gate_up); }

  // For each pool the vector that contains a pair, numbered over all pools.
  void find_vectors(Index pair) {
    Index first = 0;
    for (Index e = 0; e < s.num_pools; ++e) {
      vectors[e] = first + s.pools[e].of_pair[pair];
      first += s.pools[e].vectors;
    }
  }

  // work(c, columns [c, c + 16) of gate, of up) for the i-th of the mapped pairs, which is the row's pair `pair`.
  template <typename Work>
  void for_columns(Index i, Index pair, Work work) {
    float* x = gate_up + i * 2 * I;
    find_vectors(pair);
    for (Index e = kAtOnce; e < s.num_pools; ++e)
      for (Index c = 0; c < 2 * I; c += kLanes) store(x + c, add(load(x + c), load(map(e) + c)));
    const float *a = map(0), *b = map(1), *c = map(2), *d = map(3);
    const auto total = [=](Index at) {
      const Vector both = add(load(a + at), load(b + at)), others = add(load(c + at), load(d + at));
      return add(load(x + at), add(both, others));
    };
    for (Index at = 0, inner = I; at < inner; at += kLanes) work(at, total(at), total(inner + at));
  }

  const UnitShape& s;
  const Index D, I, P, R;
  Value* pooled;    // (R, P)
  float* maps;     // (R, 2 I)
  float* gate_up;  // (kPairs, 2 I)
  std::vector<Index> vectors;

 private:
  const float* map(Index e) const { return e < s.num_pools ? maps + vectors[e] * 2 * I : zeros; }

  float* zeros;
};

class UnitsForward : Units {
 public:
  UnitsForward(const UnitShape& s, Arena& arena) : Units(s, arena) {
    inner = arena.take<Value>(kPairs * I);
    wide = arena.take<float>(kPairs * D);
    layer_input = arena.take<Value>(s.length * D);
  }

  // Rows [from, to) of the batch; `kept`: one per layer, or null. `injection` is added to `in`, if given.
  void run(const Right* layers, const UnitKept* kept, const Value* in, const Value* injection, Value* out, Index from,
           Index to) {
    const Index size = s.length * D;
    for (Index row = from; row < to; ++row) {
      const Index at = row * size;
      Value* h = kept ? kept->before + at : layer_input;
      sum(size, in + at, injection ? injection + at : nullptr, h);
      for (Index i = 0; i < s.layers; ++i) {
        Value* after = kept ? kept[i].after + at : out + at;
        UnitKept keep{};
        if (kept) keep = {h, after, kept[i].gate_up + row * s.length * 2 * I, kept[i].scale + row * s.length};
        apply(UnitMaps(layers + i * 2 * (2 + s.kinds)), keep, h, after);
        h = after;
      }
    }
    release();
  }

 private:
  // h and `to` may be the same
  void apply(const UnitMaps<const Right>& w, const UnitKept& keep, const Value* h, Value* to) {
    pool(h);
    map_pools(w.pooled);
    for (Index t = 0; t < s.length; t += kPairs) {
      const Index m = std::min(kPairs, s.length - t);
      map_pairs(h + t * D, m, w.pair);
      for (Index i = 0; i < m; ++i) {
        Value *to = inner + i * I, *kept = keep.gate_up ? keep.gate_up + (t + i) * 2 * I : nullptr;
        for_columns(i, t + i, [to, kept, up_at = I](Index c, Vector gate, Vector up) {
          store(to + c, gated(gate, up));
          if (kept) store(kept + c, gate), store(kept + up_at + c, up);
        });
      }
      product_of_all(m, inner, I, w.down, wide);
      add_and_norm(wide, nullptr, h + t * D, m, D, s.eps, to + t * D, keep.scale ? keep.scale + t : nullptr);
    }
  }

  Value *inner, *layer_input;
  float* wide;
};

}  // namespace
