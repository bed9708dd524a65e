// A step of AdamATan2 (models/optim/adam_atan2.py), bit-equal to torch's operations one by one.
//
// Those make nine passes over the tensors; here a block stays in the first-level cache, and the next one is fetched
// while the arctangents of this one are computed.

// Also makes the linker keep torch's library, in which the functions below are found.
namespace at {
int get_num_threads();
}

extern "C" {

struct Moments {
  float* weight;
  const float* grad;
  float *average, *square;
  Index size;
};

struct StepFactors {
  float decay, grad_weight, square_weight, correction, alpha;
};

// Of torch's libraries, if it has been built with them: its square roots, which are not rounded correctly.
void vmsSqrt(Index n, const float* x, float* to, Index mode) __attribute__((weak));

}  // extern "C"

namespace {

constexpr Index kStepBlock = 256;
constexpr Index kGrain = 32768;  // values of a thread at least, in torch
constexpr Index kExactRoots = 2 | 0x100 | 0x140000;  // mode of vmsSqrt: as exact as possible, with denormals

inline void roots(Index n, const float* x, float* to) {
  if (vmsSqrt) return vmsSqrt(n, x, to, kExactRoots);
  for (Index i = 0; i < n; ++i) to[i] = std::sqrt(x[i]);
}

// For weights below 1/2; torch has another form from there.
inline Vector lerp(Vector start, Vector end, float weight) { return fmadd(splat(weight), sub(end, start), start); }

// Values [from, to) of a tensor, at most a block, of which torch computes those from `whole` without vectors.
inline void step(const Moments& m, const StepFactors& f, Index from, Index to, Index whole) {
  float roots_of[kStepBlock];
  for (Index i = from; i < to; i += kLanes) {
    const Mask mask = first(to - i);
    const Vector g = load(m.grad + i, mask);
    store(m.average + i, lerp(load(m.average + i, mask), g, f.grad_weight), mask);
    store(m.square + i, lerp(load(m.square + i, mask), mul(g, g), f.square_weight), mask);
  }
  roots(to - from, m.square + from, roots_of);
  for (Index i = from; i < to; i += kLanes) {
    if (i + kStepBlock < m.size) {
      __builtin_prefetch(m.grad + i + kStepBlock);
      __builtin_prefetch(m.average + i + kStepBlock, 1);
      __builtin_prefetch(m.square + i + kStepBlock, 1);
      __builtin_prefetch(m.weight + i + kStepBlock, 1);
    }
    const Mask mask = first(to - i);
    const Vector average = load(m.average + i, mask);
    const Vector root = div(load(roots_of + (i - from), mask), splat(f.correction));
    Vector angle;
    if (i + kLanes <= whole) {
      angle = arctangent(average, root);
    } else {
      float y[kLanes], x[kLanes];
      store(y, average), store(x, root);
      for (Index l = 0; l < kLanes; ++l) y[l] = std::atan2(y[l], x[l]);
      angle = load(y);
    }
    const Vector decayed = mul(load(m.weight + i, mask), splat(f.decay));
    store(m.weight + i, fmadd(splat(f.alpha), angle, decayed), mask);
  }
}

// The part-th of `parts` equal parts of all blocks of n tensors. torch divides a tensor among its threads too, and
// leaves the last values of each share, fewer than two vectors, to code without vectors, which rounds differently.
inline void step(const Moments* tensors, Index n, const StepFactors& f, Index part, Index parts) {
  Index total = 0, block = 0;
  const auto shares = [&](const Moments& m, auto&& work) {
    const Index threads = std::max<Index>(1, std::min(parts, (m.size + kGrain - 1) / kGrain));
    const Index share = (m.size + threads - 1) / threads;
    for (Index from = 0; from < m.size; from += share) work(from, std::min(m.size, from + share));
  };
  for (Index t = 0; t < n; ++t)
    shares(tensors[t], [&](Index from, Index to) { total += (to - from + kStepBlock - 1) / kStepBlock; });
  for (Index t = 0; t < n; ++t)
    shares(tensors[t], [&](Index from, Index to) {
      const Index whole = from + (to - from) / (2 * kLanes) * (2 * kLanes);
      for (Index i = from; i < to; i += kStepBlock, ++block)
        if (total * part / parts <= block && block < total * (part + 1) / parts)
          step(tensors[t], f, i, std::min(to, i + kStepBlock), whole);
    });
}

}  // namespace
