// Indices, and memory for intermediate results.

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using Index = int64_t;

constexpr float kLog2E = 1.44269504f;

inline Index multiple(Index n, Index unit) { return (n + unit - 1) / unit * unit; }

constexpr Index kLine = 64;  // bytes of a cache line

// Starts to load n values that are not in a near cache and needed soon.
template <typename T>
inline void fetch(const T* x, Index n) {
  for (const char *at = (const char*)x, *end = (const char*)(x + n); at < end; at += kLine)
    _mm_prefetch(at, _MM_HINT_T0);
}

// Memory that a thread keeps between calls, in chunks that grow as needed.
class Arena {
 public:
  void restart() { next = 0; }

  // Makes both take the same pieces, for parts of a computation that are never needed at the same time. The first takes
  // them again after the second, which may have moved them to make them larger.
  template <typename First, typename Second>
  void share(First first, Second second) {
    const size_t start = next;
    first();
    const size_t end = std::exchange(next, start);
    second();
    const size_t last = std::max(std::exchange(next, start), end);
    first();
    next = last;
  }

  template <typename T>
  T* take(Index n) {
    if (next == pieces.size()) pieces.emplace_back();
    Piece& piece = pieces[next++];
    const size_t bytes = multiple(n * sizeof(T), 64);
    if (bytes > piece.size) {
      piece.memory.reset(std::aligned_alloc(64, bytes));
      piece.size = piece.memory ? bytes : 0;
      if (!piece.memory) throw std::bad_alloc();
    }
    return (T*)piece.memory.get();
  }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  struct Piece {
    std::unique_ptr<void, Free> memory;
    size_t size = 0;
  };
  std::vector<Piece> pieces;
  size_t next = 0;
};

}  // namespace
