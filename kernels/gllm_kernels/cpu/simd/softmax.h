// A softmax over keys that arrive in segments: its state, and the merge of two states.
#pragma once
#include "simd/operand.h"

namespace {

// The state of a tile of query rows: running maximum (base 2), sum of weights, and weighted values [rows][head_dim].
struct Softmax {
  float *top, *sum, *out;
};

// total = the merge of two softmaxes; an empty one does not change the other.
GLLM_INLINE void merge_row(float& top, float& sum, float* out, float top2, float sum2, const float* out2, int64_t hd) {
  if (sum2 == 0.0f) return;
  const float high = top > top2 ? top : top2;
  const F a = sum == 0.0f ? Vec::set(0.0f) : exp2(Vec::set(top - high));
  const F b = exp2(Vec::set(top2 - high));
  top = high;
  sum = Vec::max_of(Vec::fma(Vec::set(sum), a, Vec::mul(Vec::set(sum2), b)));
  for (int64_t d = 0; d < hd; d += Vec::width) {
    Vec::store(out + d, Vec::fma(Vec::load(out + d), a, Vec::mul(Vec::load(out2 + d), b)));
  }
}

}  // namespace
