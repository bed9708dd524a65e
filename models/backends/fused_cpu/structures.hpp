// Structures that Python fills in (bindings.py), and block sizes.
// B rows of the batch, L positions per row, D width, W heads times head width H, I inner width of SwiGLU, J inner width
// of the SwiGLU over positions.

extern "C" {

// A right side (inner, columns) in blocks of columns, with pairs of rows interleaved if kPair is 2:
// (columns / block, inner / kPair, block, kPair).
struct Right {
  const Value* data;
  Index inner, columns, block;
};

struct Layer {
  Right qkv, out, gate_up, down;          // transposed weights
  Right qkv_t, out_t, gate_up_t, down_t;  // the weights, for the gradient
  // Left sides: (2 J, L in whole pairs), (L, J), for the gradient (L, 2 J), (J, L in whole pairs); padded with zeros
  const Value *mix_gate_up, *mix_down, *mix_gate_up_t, *mix_down_t;
  const float *conv_taps, *conv_bias;  // of ConvSwiGLU, (2, I) and (I), or null
};

// Tensors of a layer saved for the backward pass, for all rows of the batch.
struct Kept {
  Value *before, *q, *k, *v, *mixed;      // (B L, D), queries and keys rotated, and attention's output: (B L, W)
  Value* mix_gate_up;                     // (B, 2 J, D)
  Value *between, *after;                 // (B L, D)
  Value* gate_up;                         // (I / block, B L, 2, block)
  float* lse;                            // (B, heads, L): log2 of the sum of the scores' exponentials
  float *scale_between, *scale_after;    // factors of rms: (B L), or (B, D) if it is over positions
  float *scale_mix_inner, *scale_inner;  // the same within the SwiGLUs, if `rms_gated`: (B, D), (B L)
};

struct Shape {
  Index rows, length, width, heads, head_dim, inner, mix_inner, layers, rms_gated;
  float eps;
  const float *cos, *sin;  // (L, H), or null
};

// Accumulated in float32. In blocks of columns (columns / block, rows, block): transposed qkv (D, 3 W) and gate_up
// (D, 2 I), out (D, W) and down (D, I). Not in blocks: mix_gate_up (2 J, L), transposed mix_down (J, L), conv_taps (2, I)
// and conv_bias (I).
struct Gradients {
  float *qkv, *out, *gate_up, *down, *mix_gate_up, *mix_down, *conv_taps, *conv_bias;
};

}  // extern "C"

namespace {

constexpr Index kGroup = 208;    // positions that pass through the network together, at least one row
constexpr Index kQueries = 128;  // queries whose scores are computed at once
constexpr Index kMixed = 64;     // inner columns of the SwiGLU over positions at once
constexpr Index kWidest = 128;   // columns of a block
constexpr Index kUnit = 16;      // its columns are a multiple of this, for vectors of any width

inline Index whole_pairs(Index n) { return multiple(n, kPair); }

// Block width: the largest number of whole units that divides `columns`.
inline Index block_of(Index columns) {
  Index block = kWidest;
  while (columns % block) block -= kUnit;
  return block;
}

inline Index blocks(const Right& w) { return w.columns / w.block; }

// Block j of x w for m rows of x (m, inner).
inline void product(Index m, const Value* x, Index ldx, const Right& w, Index j, float* c, Index ldc, bool add = false) {
  product(m, w.block, w.inner, x, ldx, w.data + j * w.block * w.inner, w.block, c, ldc, add);
}

}  // namespace
