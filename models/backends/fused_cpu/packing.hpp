// Weights in float32 stored as right sides of products, and sums of their gradients returned to the weights' layout.

extern "C" {

// A weight (outputs, inputs), whose right sides are in blocks of outputs (transposed) and of inputs (as it is).
struct Packing {
  Index outputs, inputs, output_block, input_block;
};

}  // extern "C"

namespace {

// `transposed` and, if it is not null, `plain`.
inline void pack(const Packing& p, const float* weight, Value* transposed, Value* plain, Arena& arena) {
  const Index outputs = p.outputs, inputs = p.inputs;
  Value* values = arena.take<Value>(outputs * inputs);
  for (Index i = 0; i < outputs * inputs; i += kLanes) store(values + i, load(weight + i));
  for (Index o = 0; o < outputs; o += p.output_block)
    transpose(values + o * inputs, inputs / kPair, p.output_block, inputs / kPair, transposed + o * inputs,
              p.output_block);
  for (Index i = 0; plain && i < inputs; i += p.input_block)
    pair_rows(values + i, inputs, outputs, p.input_block, plain + i * outputs, kPair * p.input_block);
}

// The gradient (outputs, inputs) from (outputs / block, inputs, block) or from (inputs / block, outputs, block).
inline void unpack(const Packing& p, const float* sum, bool by_output, float* grad) {
  const Index outputs = p.outputs, inputs = p.inputs, block = by_output ? p.output_block : p.input_block;
  for (Index o = 0; by_output && o < outputs; o += block)
    transpose(sum + o * inputs, block, inputs, block, grad + o * inputs, inputs);
  for (Index i = 0; !by_output && i < inputs; i += block)
    for (Index o = 0; o < outputs; ++o) {
      const float* row = sum + (i * outputs + o * block);
      std::copy(row, row + block, grad + o * inputs + i);
    }
}

}  // namespace
