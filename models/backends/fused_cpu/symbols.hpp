// One application of a network of blocks over symbols and positions, and its gradient: per block, attention over the
// positions of each symbol, attention over the symbols of each position, SwiGLU.
//
// To the outside, rows are (symbols, positions, D). The second attention and SwiGLU take them turned, (positions,
// symbols, D): both halves of a block are then layers of `Forward` and `Backward`, with rows of their own.

extern "C" {

struct SymbolShape {
  Index rows;                // B rows of the batch
  Shape positions, symbols;  // of the halves: B V rows of L positions, B L rows of V symbols
};

}  // extern "C"

namespace {

// Rows (n, from, to, D) to (n, to, from, D).
inline void turn(const Value* x, Index n, Index from, Index to, Index D, Value* out) {
  for (Index row = 0; row < n; ++row, x += from * to * D, out += from * to * D)
    for (Index j = 0; j < to; ++j)
      for (Index i = 0; i < from; ++i) {
        const Value* source = x + (i * to + j) * D;
        std::copy(source, source + D, out + (j * from + i) * D);
      }
}

// work(from, n): `rows` in steps.
template <typename Work>
inline void in_steps(Index rows, Index step, Work work) {
  for (Index from = 0; from < rows; from += step) work(from, std::min(step, rows - from));
}

// Sizes of a row of the batch, shared by both passes.
struct Symbols {
  const Index V, L, D, size;
  explicit Symbols(const SymbolShape& s)
      : V(s.symbols.length), L(s.positions.length), D(s.positions.width), size(V * L * D) {}

  Index rows_together(Index positions) const { return std::max<Index>(1, positions / (V * L)); }
};

class SymbolsForward : Symbols {
 public:
  SymbolsForward(const SymbolShape& s, Arena& arena)
      : Symbols(s), layers(s.positions.layers), positions(s.positions, arena), symbols(s.symbols, arena) {
    turned = arena.take<Value>(rows_together(kGroup) * size);
  }

  // Rows [from, to) of the batch; `of_halves`, `kept`: two per layer. `injection` is added to `in`, if given.
  void run(const Layer* of_halves, const Kept* kept, const Value* in, const Value* injection, Value* out, Index from,
           Index to) {
    in_steps(to - from, rows_together(kGroup), [&](Index offset, Index n) {
      const Index row = from + offset, at = row * size;
      Value* h = kept ? kept[0].before + at : out + at;
      sum(n * size, in + at, injection ? injection + at : nullptr, h);
      for (Index i = 0; i < layers; ++i) {
        const Kept* keep = kept ? kept + 2 * i : nullptr;
        Value* after = keep ? keep[1].after + at : h;
        apply(of_halves + 2 * i, keep, h, after, row, n);
        h = after;
      }
    });
    release();
  }

 private:
  void apply(const Layer* l, const Kept* keep, const Value* h, Value* to, Index row, Index n) {
    const Kept *first = keep, *second = keep ? keep + 1 : nullptr;
    Value* between = keep ? first->between + row * size : to;
    in_steps(n * V, positions.rows_together(), [&](Index r, Index m) {
      positions.attend(l[0], first, h + r * L * D, between + r * L * D, row * V + r, m);
    });
    turn(between, n, V, L, D, turned);
    in_steps(n * L, symbols.rows_together(), [&](Index r, Index m) {
      Value *x = turned + r * V * D, *middle = keep ? second->between + row * size + r * V * D : x;
      symbols.attend(l[1], second, x, middle, row * L + r, m);
      symbols.feed_forward(l[1], second, middle, x, (row * L + r) * V, m * V);
    });
    turn(turned, n, L, V, D, to);
  }

  const Index layers;
  Forward positions, symbols;
  Value* turned;
};

class SymbolsBackward : Symbols {
 public:
  SymbolsBackward(const SymbolShape& s, const Layer* l, Arena& arena)
      : Symbols(s), layers(s.positions.layers), positions(s.positions, l[0], arena), symbols(s.symbols, l[1], arena) {
    const Index n = rows_together(kChunk) * size;
    g = arena.take<Value>(n), turned = arena.take<Value>(n);
    before = arena.take<Value>(n), after = arena.take<Value>(n);
  }

  // Rows [from, to): input gradient from the output gradient; weight gradients are added to `grads`, two per layer.
  void run(const Layer* of_halves, const Kept* kept, const Gradients* grads, const Value* grad_out, Value* grad_in,
           Index from, Index to) {
    in_steps(to - from, rows_together(kChunk), [&](Index offset, Index n) {
      const Index row = from + offset, at = row * size;
      for (Index i = layers - 1; i >= 0; --i)
        apply(of_halves + 2 * i, kept + 2 * i, grads + 2 * i, i == layers - 1 ? grad_out + at : g, i ? g : grad_in + at,
              row, n);
    });
    release();
  }

 private:
  // `grad` and `to` may be the same
  void apply(const Layer* l, const Kept* kept, const Gradients* grads, const Value* grad, Value* to, Index row, Index n) {
    const Index at = row * size;
    turn(grad, n, V, L, D, turned);
    turn(kept[0].between + at, n, V, L, D, before);
    turn(kept[1].after + at, n, V, L, D, after);
    Kept second = kept[1];  // its input and output are kept in the other order only
    second.before = before - at, second.after = after - at;
    in_steps(n * L, symbols.rows_together(), [&](Index r, Index m) {
      Value* x = turned + r * V * D;
      symbols.feed_forward(l[1], second, grads[1], x, row * L + r, m);
      symbols.attend(l[1], second, grads[1], x, row * L + r, m);
    });
    turn(turned, n, L, V, D, to);
    in_steps(n * V, positions.rows_together(), [&](Index r, Index m) {
      Value* x = to + r * L * D;
      positions.attended_norm(l[0], kept[0], x, row * V + r, m);
      positions.attend(l[0], kept[0], grads[0], x, row * V + r, m);
    });
  }

  const Index layers;
  Backward positions, symbols;
  Value *g, *turned, *before, *after;
};

}  // namespace
