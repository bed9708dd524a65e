// Weights in float32 stored as right sides of products, and sums of their gradients returned to the weights' layout.

extern "C" {

// A weight (outputs, inputs), whose right sides are in blocks of outputs (transposed) and of inputs (as it is).
struct Packing {
  Index outputs, inputs, output_block, input_block;
  const float* weight;
  Value *transposed, *plain;  // right sides, of which the second is for the gradient only, or null
};

// The sum of a weight's gradients, in blocks of outputs or of inputs.
struct Unpacking {
  Index outputs, inputs, block, by_output;
  const float* sum;
  float* grad;
};

}  // extern "C"

namespace {

inline void pack(const Packing& p, Value* values) {
  const Index outputs = p.outputs, inputs = p.inputs;
  for (Index i = 0; i < outputs * inputs; i += kLanes) store(values + i, load(p.weight + i));
  for (Index o = 0; o < outputs; o += p.output_block)
    transpose(values + o * inputs, inputs / kPair, p.output_block, inputs / kPair, p.transposed + o * inputs,
              p.output_block);
  for (Index i = 0; p.plain && i < inputs; i += p.input_block)
    pair_rows(values + i, inputs, outputs, p.input_block, p.plain + i * outputs, kPair * p.input_block);
}

// The gradient (outputs, inputs) from (outputs / block, inputs, block) or from (inputs / block, outputs, block).
inline void unpack(const Unpacking& u) {
  const Index outputs = u.outputs, inputs = u.inputs, block = u.block;
  for (Index o = 0; u.by_output && o < outputs; o += block)
    transpose(u.sum + o * inputs, block, inputs, block, u.grad + o * inputs, inputs);
  for (Index i = 0; !u.by_output && i < inputs; i += block)
    for (Index o = 0; o < outputs; ++o) {
      const float* row = u.sum + (i * outputs + o * block);
      std::copy(row, row + block, u.grad + o * inputs + i);
    }
}

}  // namespace
