// Norms, rotary embedding, activation and row reductions.
#pragma once
#include "kernels.h"
#include "simd/operand.h"

namespace {

using gllm::NormArgs;
using gllm::RopeArgs;
using gllm::RowArgs;
using gllm::SiluArgs;

struct Range {
  int64_t begin, end;
};

GLLM_INLINE Range chunk_rows(int64_t chunk, int64_t per_chunk, int64_t rows) {
  const int64_t begin = chunk * per_chunk;
  return {begin, begin + per_chunk < rows ? begin + per_chunk : rows};
}

GLLM_INLINE float inverse_root(float value) { return 1.0f / __builtin_sqrtf(value); }

// In bf16 the normed value is rounded before and after the weight, as transformers does.
template <class E>
void norm_rows(const NormArgs& args, int64_t chunk) {
  const Range range = chunk_rows(chunk, args.rows_per_chunk, args.n * args.heads);
  const E* weight = static_cast<const E*>(args.weight);
  for (int64_t r = range.begin; r < range.end; ++r) {
    const int64_t token = r / args.heads, head = r % args.heads;
    const E* x = static_cast<const E*>(args.x) + token * args.token_stride + head * args.head_stride;
    E* out = static_cast<E*>(args.out) + r * args.size;
    if (args.residual != nullptr) {
      E* residual = static_cast<E*>(args.residual) + token * args.residual_stride;
      for (int64_t i = 0; i < args.size; i += Vec::width) {
        const int64_t count = args.size - i;
        store_some(residual + i, Vec::add(load_some(residual + i, count), load_some(x + i, count)), count);
      }
      x = residual;
    }
    F squares = Vec::set(0.0f);
    for (int64_t i = 0; i < args.size; i += Vec::width) {
      const F v = load_some(x + i, args.size - i);
      squares = Vec::fma(v, v, squares);
    }
    const F scale = Vec::set(inverse_root(Vec::sum(squares) / static_cast<float>(args.size) + args.eps));
    for (int64_t i = 0; i < args.size; i += Vec::width) {
      const int64_t count = args.size - i;
      const F normed = rounded<E>(Vec::mul(load_some(x + i, count), scale));
      store_some(out + i, Vec::mul(normed, load_some(weight + i, count)), count);
    }
  }
}

void norm(const NormArgs* args, int64_t chunk) {
  args->dtype == gllm::DType::bf16 ? norm_rows<uint16_t>(*args, chunk) : norm_rows<float>(*args, chunk);
}

template <class E>
GLLM_INLINE void rotate(const RopeArgs::Heads& heads, int64_t token, const float* cos_sin, int64_t half) {
  E* row = static_cast<E*>(heads.data) + token * heads.token_stride;
  for (int64_t h = 0; h < heads.count; ++h, row += heads.head_stride) {
    for (int64_t i = 0; i < half; i += Vec::width) {
      const int64_t count = half - i;
      const F cos = load_some(cos_sin + i, count), sin = load_some(cos_sin + half + i, count);
      const F a = load_some(row + i, count), b = load_some(row + half + i, count);
      store_some(row + i, Vec::sub(Vec::mul(a, cos), Vec::mul(b, sin)), count);
      store_some(row + half + i, Vec::add(Vec::mul(b, cos), Vec::mul(a, sin)), count);
    }
  }
}

template <class E>
void rope_rows(const RopeArgs& args, int64_t chunk) {
  const Range range = chunk_rows(chunk, args.rows_per_chunk, args.n);
  for (int64_t token = range.begin; token < range.end; ++token) {
    const float* cos_sin = args.cos_sin + args.positions[token] * args.rotary_dim;
    rotate<E>(args.q, token, cos_sin, args.rotary_dim / 2);
    rotate<E>(args.k, token, cos_sin, args.rotary_dim / 2);
  }
}

void rope(const RopeArgs* args, int64_t chunk) {
  args->dtype == gllm::DType::bf16 ? rope_rows<uint16_t>(*args, chunk) : rope_rows<float>(*args, chunk);
}

template <class E>
GLLM_INLINE void silu_and_mul_row(const E* gate, const E* up, E* out, int64_t size) {
  for (int64_t i = 0; i < size; i += Vec::width) {
    const int64_t count = size - i;
    const F g = load_some(gate + i, count);
    const F power = exp2(Vec::mul(g, Vec::set(-kLog2E)));
    const F silu = rounded<E>(Vec::div(g, Vec::add(Vec::set(1.0f), power)));
    store_some(out + i, Vec::mul(silu, load_some(up + i, count)), count);
  }
}

template <class E>
void silu_rows(const SiluArgs& args, int64_t chunk) {
  const Range range = chunk_rows(chunk, args.rows_per_chunk, args.n);
  for (int64_t r = range.begin; r < range.end; ++r) {
    const E* gate = static_cast<const E*>(args.x) + r * args.stride;
    silu_and_mul_row(gate, gate + args.size, static_cast<E*>(args.out) + r * args.size, args.size);
  }
}

void silu_and_mul(const SiluArgs* args, int64_t chunk) {
  args->dtype == gllm::DType::bf16 ? silu_rows<uint16_t>(*args, chunk) : silu_rows<float>(*args, chunk);
}

GLLM_INLINE float row_max(const float* x, int64_t size) {
  F best = Vec::set(-__builtin_inff());
  for (int64_t i = 0; i < size; i += Vec::width) {
    const int64_t count = size - i;
    const int lanes = count < Vec::width ? static_cast<int>(count) : Vec::width;
    best = Vec::max(Vec::first(load_some(x + i, count), lanes, -__builtin_inff()), best);
  }
  return Vec::max_of(best);
}

// Searches the first index of the maximum only in the first block that contains it. NaN is never a maximum.
void argmax(const RowArgs* args, int64_t row) {
  constexpr int64_t kStretch = 512;
  const float* x = args->x + row * args->stride;
  float best = -__builtin_inff();
  int64_t index = 0;
  for (int64_t begin = 0; begin < args->size; begin += kStretch) {
    const int64_t count = args->size - begin < kStretch ? args->size - begin : kStretch;
    const float top = row_max(x + begin, count);
    if (top > best) {
      best = top;
      index = begin;
    }
  }
  while (index + 1 < args->size && x[index] != best) ++index;
  args->index[row] = x[index] == best ? index : 0;
}

void log_sum_exp(const RowArgs* args, int64_t row) {
  const float* x = args->x + row * args->stride;
  const float best = row_max(x, args->size);
  if (!(best > -__builtin_inff() && best < __builtin_inff())) {
    args->value[row] = best;
    return;
  }
  const F shift = Vec::set(best), scale = Vec::set(kLog2E);
  F sum = Vec::set(0.0f);
  for (int64_t i = 0; i < args->size; i += Vec::width) {
    const int64_t count = args->size - i;
    const int lanes = count < Vec::width ? static_cast<int>(count) : Vec::width;
    const F power = exp2(Vec::mul(Vec::sub(load_some(x + i, count), shift), scale));
    sum = Vec::add(sum, Vec::first(power, lanes, 0.0f));
  }
  args->value[row] = best + __builtin_logf(Vec::sum(sum));
}

}  // namespace
