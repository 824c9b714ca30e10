// Sixteen floats, and bf16 dot products in hardware. vec_scalar.h describes the functions.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

struct Vec {
  static constexpr int width = 16;
  static constexpr int tile_rows = 6;
  static constexpr int tile_vectors = 4;
  using F = __m512;
  using Pairs = __m512i;

  static F set(float value) { return _mm512_set1_ps(value); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static float sum(F v) { return _mm512_reduce_add_ps(v); }
  static float max_of(F v) { return _mm512_reduce_max_ps(v); }
  static F first(F v, int count, float other) {
    const auto mask = static_cast<__mmask16>(count >= 16 ? 0xffff : (1u << (count < 0 ? 0 : count)) - 1);
    return _mm512_mask_blend_ps(mask, _mm512_set1_ps(other), v);
  }

  static F load(const uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  static void store(uint16_t* p, F v) {
    const __m256bh half = _mm512_cvtneps_pbh(v);
    std::memcpy(p, &half, sizeof(half));
  }

  static Pairs load_pairs(const uint16_t* p) { return _mm512_loadu_si512(p); }
  static Pairs set_pair(uint32_t pair) { return _mm512_set1_epi32(static_cast<int>(pair)); }
  static F dot_pairs(F acc, Pairs a, Pairs b) {
    return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }

  static F round(F v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F scale_by_power(F v, F exponent) { return _mm512_scalef_ps(v, exponent); }
  static F zero_below(F v, F x, float bound) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(bound), _CMP_GE_OQ), v);
  }
};

}  // namespace
