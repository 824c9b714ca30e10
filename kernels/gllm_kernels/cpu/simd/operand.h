// The two element types of the matrix kernels, and the register tile they share.
#pragma once
#include <cstdint>
#include <cstring>

#define GLLM_INLINE __attribute__((always_inline)) inline
#if defined(__clang__)
#define GLLM_UNROLL _Pragma("clang loop unroll(full)")
#else
#define GLLM_UNROLL _Pragma("GCC unroll 16")
#endif

namespace {

using F = Vec::F;

// `step`: the number of consecutive k that one multiply-accumulate takes.
struct Bf16 {
  using Elem = uint16_t;
  using Operand = Vec::Pairs;
  static constexpr int step = 2;
  static Operand broadcast(const Elem* p) {
    uint32_t pair;
    std::memcpy(&pair, p, 4);
    return Vec::set_pair(pair);
  }
  static Operand broadcast_last(const Elem* p) { return Vec::set_pair(*p); }  // an odd k: its partner is zero
  static Operand load(const Elem* p) { return Vec::load_pairs(p); }
  static F mac(F acc, Operand a, Operand b) { return Vec::dot_pairs(acc, a, b); }
};

struct F32 {
  using Elem = float;
  using Operand = F;
  static constexpr int step = 1;
  static Operand broadcast(const Elem* p) { return Vec::set(*p); }
  static Operand broadcast_last(const Elem* p) { return Vec::set(*p); }
  static Operand load(const Elem* p) { return Vec::load(p); }
  static F mac(F acc, Operand a, Operand b) { return Vec::fma(a, b, acc); }
};

// acc[i][j] += sum over k of a[i][k] * b[k][16 j ..], with k strictly in order for every element and for all MR and NV:
// batch invariance depends on this. b[j] points at the j-th vector of the first step; steps are ldb elements apart.
// Each step prefetches `Prefetch` vectors from `ahead`, ahead_step elements further each time: this uses the memory
// bandwidth evenly, without bursts that would delay the arithmetic. `page` is prefetched in the same way, page_step
// bytes further each time.
template <class T, int MR, int NV, int Prefetch = 0, bool Page = false>
GLLM_INLINE void accumulate(F (&acc)[MR][NV], const typename T::Elem* a, int64_t lda,
                            const typename T::Elem* const (&b)[NV], int64_t ldb, int64_t steps,
                            const typename T::Elem* const (&ahead)[NV], int64_t ahead_step, const char* page = nullptr,
                            int64_t page_step = 0) {
  for (int64_t s = 0; s < steps; ++s) {
    typename T::Operand bv[NV];
    GLLM_UNROLL
    for (int j = 0; j < NV; ++j) {
      bv[j] = T::load(b[j] + s * ldb);
      // To the second level: prefetches into the first are bounded by its few miss registers (a third slower here).
      if constexpr (Prefetch > 0) {
        if (j < Prefetch) __builtin_prefetch(ahead[j] + s * ahead_step, 0, 2);
      }
    }
    if constexpr (Page) __builtin_prefetch(page + s * page_step, 0, 2);
    GLLM_UNROLL
    for (int i = 0; i < MR; ++i) {
      const typename T::Operand av = T::broadcast(a + i * lda + s * T::step);
      GLLM_UNROLL
      for (int j = 0; j < NV; ++j) acc[i][j] = T::mac(acc[i][j], av, bv[j]);
    }
  }
}

// Calls fn.template run<rows>() for a row count known only at run time.
template <int MR, class Fn>
GLLM_INLINE void with_rows(int64_t rows, const Fn& fn) {
  if constexpr (MR > 1) {
    if (rows < MR) return with_rows<MR - 1>(rows, fn);
  }
  fn.template run<MR>();
}

// Splits `rows` into even tiles of at most Vec::tile_rows and calls fn(first, count).
template <class Fn>
GLLM_INLINE void for_row_tiles(int64_t rows, const Fn& fn) {
  const int64_t tiles = (rows + Vec::tile_rows - 1) / Vec::tile_rows;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = rows * t / tiles;
    fn(first, rows * (t + 1) / tiles - first);
  }
}

// 2^x. Exactly 1 at 0, 0 below the normal numbers (so also at -infinity), never above 2^127, relative error under 3e-7.
GLLM_INLINE F exp2(F x) {
  const F clamped = Vec::min(Vec::max(x, Vec::set(-127.0f)), Vec::set(127.0f));
  const F whole = Vec::round(clamped);
  const F f = Vec::sub(clamped, whole);
  // ln(2)^k / k!
  F p = Vec::set(1.5403530e-4f);
  p = Vec::fma(p, f, Vec::set(1.3333558e-3f));
  p = Vec::fma(p, f, Vec::set(9.6181291e-3f));
  p = Vec::fma(p, f, Vec::set(5.5504109e-2f));
  p = Vec::fma(p, f, Vec::set(2.4022651e-1f));
  p = Vec::fma(p, f, Vec::set(6.9314718e-1f));
  p = Vec::fma(p, f, Vec::set(1.0f));
  return Vec::zero_below(Vec::scale_by_power(p, whole), x, -126.0f);
}

constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.69314718f;

// Loads and stores of the last, partial vector of a row; `count` of Vec::width elements.
template <class E>
GLLM_INLINE F load_some(const E* p, int64_t count) {
  if (count >= Vec::width) return Vec::load(p);
  E buffer[Vec::width] = {};
  for (int64_t i = 0; i < count; ++i) buffer[i] = p[i];
  return Vec::load(buffer);
}

template <class E>
GLLM_INLINE void store_some(E* p, F v, int64_t count) {
  if (count >= Vec::width) return Vec::store(p, v);
  E buffer[Vec::width];
  Vec::store(buffer, v);
  for (int64_t i = 0; i < count; ++i) p[i] = buffer[i];
}

// v after a round trip through E.
template <class E>
GLLM_INLINE F rounded(F v) {
  if constexpr (sizeof(E) == 4) return v;
  E buffer[Vec::width];
  Vec::store(buffer, v);
  return Vec::load(buffer);
}

}  // namespace
