// The vector type that the kernels are written in, in portable C++ (compilers turn it into SSE2 or NEON).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct Vec {
  static constexpr int width = 8;
  // The register block of the matrix kernels: rows x vectors of accumulators.
  static constexpr int tile_rows = 2;
  static constexpr int tile_vectors = 2;
  struct F {
    float v[width];
  };
  // Two consecutive bf16 per lane, the earlier one in the low half.
  struct Pairs {
    uint32_t v[width];
  };

  template <class Fn>
  static F lanes(Fn fn) {
    F r;
    for (int i = 0; i < width; ++i) r.v[i] = fn(i);
    return r;
  }
  static float widen(uint32_t bits) {
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
  }

  static F set(float value) { return lanes([&](int) { return value; }); }
  static F load(const float* p) { return lanes([&](int i) { return p[i]; }); }
  static void store(float* p, F v) { std::memcpy(p, v.v, sizeof(v.v)); }
  static F add(F a, F b) { return lanes([&](int i) { return a.v[i] + b.v[i]; }); }
  static F sub(F a, F b) { return lanes([&](int i) { return a.v[i] - b.v[i]; }); }
  static F mul(F a, F b) { return lanes([&](int i) { return a.v[i] * b.v[i]; }); }
  static F div(F a, F b) { return lanes([&](int i) { return a.v[i] / b.v[i]; }); }
  static F min(F a, F b) { return lanes([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
  static F max(F a, F b) { return lanes([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
  // a * b + c, fused where the hardware has it.
  static F fma(F a, F b, F c) { return lanes([&](int i) { return a.v[i] * b.v[i] + c.v[i]; }); }
  static float sum(F v) {
    for (int half = width / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) v.v[i] += v.v[i + half];
    }
    return v.v[0];
  }
  static float max_of(F v) {
    float m = v.v[0];
    for (int i = 1; i < width; ++i) m = v.v[i] > m ? v.v[i] : m;
    return m;
  }
  // The first `count` lanes of v, `other` in the rest; count may lie outside 0..width.
  static F first(F v, int count, float other) { return lanes([&](int i) { return i < count ? v.v[i] : other; }); }

  // bf16 as raw bits; stores round to nearest even.
  static F load(const uint16_t* p) {
    return lanes([&](int i) { return widen(static_cast<uint32_t>(p[i]) << 16); });
  }
  static void store(uint16_t* p, F v) {
    for (int i = 0; i < width; ++i) {
      uint32_t bits;
      std::memcpy(&bits, &v.v[i], 4);
      const bool nan = v.v[i] != v.v[i];
      p[i] = nan ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }
  }

  static Pairs load_pairs(const uint16_t* p) {
    Pairs r;
    std::memcpy(r.v, p, sizeof(r.v));
    return r;
  }
  static Pairs set_pair(uint32_t pair) {
    Pairs r;
    for (int i = 0; i < width; ++i) r.v[i] = pair;
    return r;
  }
  static F even(Pairs p) {
    return lanes([&](int i) { return widen(p.v[i] << 16); });
  }
  static F odd(Pairs p) {
    return lanes([&](int i) { return widen(p.v[i] & 0xffff0000u); });
  }
  static F dot_pairs(F acc, Pairs a, Pairs b) { return fma(odd(a), odd(b), fma(even(a), even(b), acc)); }

  static F round(F v) {
    return lanes([&](int i) { return std::nearbyintf(v.v[i]); });
  }
  // v * 2^exponent for a whole exponent and a result that is a normal number.
  static F scale_by_power(F v, F exponent) {
    return lanes([&](int i) {
      uint32_t bits;
      std::memcpy(&bits, &v.v[i], 4);
      return widen(bits + (static_cast<uint32_t>(static_cast<int32_t>(exponent.v[i])) << 23));
    });
  }
  // v where x >= bound, else 0.
  static F zero_below(F v, F x, float bound) {
    return lanes([&](int i) { return x.v[i] >= bound ? v.v[i] : 0.0f; });
  }
};

}  // namespace
