// Functions called from Python. Rows are divided into parts, one per thread. Returns an error message, or null.

namespace {

template <typename Work>
const char* in_parts(Index rows, Index parts, Work work) {
  static thread_local std::string message;
  std::string failure;
#pragma omp parallel for num_threads(parts) schedule(static, 1) if (parts > 1)
  for (Index part = 0; part < parts; ++part) {
    static thread_local Arena arena;
    try {
      arena.restart();
      work(arena, part, rows * part / parts, rows * (part + 1) / parts);
    } catch (const std::exception& error) {
#pragma omp critical
      failure = error.what();
    }
  }
  message = failure;
  return message.empty() ? nullptr : message.c_str();
}

}  // namespace

extern "C" const char* forward(const Shape* shape, const Layer* layers, Index parts, const Kept* kept, const Value* in,
                               const Value* injection, Value* out) {
  return in_parts(shape->rows, parts, [&](Arena& arena, Index, Index from, Index to) {
    Forward(*shape, arena).run(layers, kept, in, injection, out, from, to);
  });
}

// `grads`: all layers of each part.
extern "C" const char* backward(const Shape* shape, const Layer* layers, Index parts, const Kept* kept,
                                const Gradients* grads, const Value* grad_out, Value* grad_in) {
  return in_parts(shape->rows, parts, [&](Arena& arena, Index part, Index from, Index to) {
    const Gradients* own = grads + part * shape->layers;
    Backward(*shape, *layers, arena).run(layers, kept, own, grad_out, grad_in, from, to);
  });
}

extern "C" const char* forward_units(const UnitShape* shape, const Right* layers, Index parts, const UnitKept* kept,
                                     const Value* in, const Value* injection, Value* out) {
  return in_parts(shape->rows, parts, [&](Arena& arena, Index, Index from, Index to) {
    UnitsForward(*shape, arena).run(layers, kept, in, injection, out, from, to);
  });
}

extern "C" const char* backward_units(const UnitShape* shape, const Right* layers, Index parts, const UnitKept* kept,
                                      UnitGradients* grads, const Value* grad_out, Value* grad_in) {
  return in_parts(shape->rows, parts, [&](Arena& arena, Index part, Index from, Index to) {
    UnitGradients* own = grads + part * shape->layers * (2 + shape->kinds);
    UnitsBackward(*shape, layers, arena).run(layers, kept, own, grad_out, grad_in, from, to);
  });
}

extern "C" const char* forward_symbols(const SymbolShape* shape, const Layer* layers, Index parts, const Kept* kept,
                                       const Value* in, const Value* injection, Value* out) {
  return in_parts(shape->rows, parts, [&](Arena& arena, Index, Index from, Index to) {
    SymbolsForward(*shape, arena).run(layers, kept, in, injection, out, from, to);
  });
}

extern "C" const char* backward_symbols(const SymbolShape* shape, const Layer* layers, Index parts, const Kept* kept,
                                        const Gradients* grads, const Value* grad_out, Value* grad_in) {
  return in_parts(shape->rows, parts, [&](Arena& arena, Index part, Index from, Index to) {
    const Gradients* own = grads + part * 2 * shape->positions.layers;
    SymbolsBackward(*shape, layers, arena).run(layers, kept, own, grad_out, grad_in, from, to);
  });
}

extern "C" const char* pack_weights(const Packing* weights, Index n) {
  return in_parts(1, 1, [&](Arena& arena, Index, Index, Index) {
    Index most = 0;
    for (Index i = 0; i < n; ++i) most = std::max(most, weights[i].outputs * weights[i].inputs);
    Value* values = arena.take<Value>(most);
    for (Index i = 0; i < n; ++i) pack(weights[i], values);
  });
}

extern "C" void unpack_gradients(const Unpacking* sums, Index n) {
  for (Index i = 0; i < n; ++i) unpack(sums[i]);
}

// Adds each of n rows to row `ids` of `totals`, one after another.
extern "C" void sum_rows_by_id(const int32_t* ids, Index n, Index width, const Value* rows, Value* totals) {
  for (Index i = 0; i < n; ++i) {
    const Value* row = rows + i * width;
    Value* total = totals + ids[i] * width;
    for (Index d = 0; d < width; d += kLanes) store(total + d, add(load(total + d), load(row + d)));
  }
}

extern "C" const char* adam_atan2(const Moments* tensors, Index n, const StepFactors* factors) {
  if (!has_arctangent()) return "torch does not export its arctangent";
  const Index threads = at::get_num_threads();
  return in_parts(threads, threads,
                  [&](Arena&, Index part, Index, Index) { step(tensors, n, *factors, part, threads); });
}

// Checks the products on this processor, with sizes that fill no register evenly.
extern "C" const char* check() {
  return in_parts(1, 1, [](Arena& arena, Index, Index, Index) {
    constexpr Index m = 15, n = 21, k = 34, ld = 32;
    Value *a = arena.take<Value>(m * k), *rows = arena.take<Value>(k * ld), *b = arena.take<Value>(k * ld);
    float* c = arena.take<float>(m * n);
    for (Index i = 0; i < m * k; ++i) a[i] = (float)(i % 7 - 3);
    for (Index i = 0; i < k * ld; ++i) rows[i] = (float)(i % 5 - 2);
    pair_rows(rows, ld, k, ld, b, kPair * ld);
    product(m, n, k, a, k, b, ld, c, n);
    release();
    for (Index i = 0; i < m; ++i)
      for (Index j = 0; j < n; ++j) {
        float expected = 0;
        for (Index l = 0; l < k; ++l) expected += (float)a[i * k + l] * (float)rows[l * ld + j];
        if (c[i * n + j] != expected) throw std::runtime_error("the library computes wrong products on this processor");
      }
  });
}
