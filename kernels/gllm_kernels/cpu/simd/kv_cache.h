// The layout of keys and values in their pages, and the writing of a token.
#pragma once
#include "kernels.h"
#include "simd/operand.h"

namespace {

using gllm::AttentionArgs;
using gllm::AttentionWrite;
using gllm::kBlockTokens;

// The addresses of keys and values of one head in one page.
template <class E>
struct PageHead {
  E *keys, *values;
};

template <class E>
GLLM_INLINE PageHead<E> page_head(const AttentionArgs& args, int64_t row, int64_t kv_head, int64_t position) {
  const int64_t page = args.block_tables[row * args.max_pages + position / args.page_size];
  const int64_t size = args.page_size * args.head_dim;
  E* keys = static_cast<E*>(args.pool) + (page * args.kv_heads + kv_head) * 2 * size;
  return {keys, keys + size};
}

// The addresses of the block of keys and values that begins at `position`; pages hold whole blocks.
template <class E>
GLLM_INLINE PageHead<E> block_at(const AttentionArgs& args, int64_t row, int64_t kv_head, int64_t position) {
  const PageHead<E> page = page_head<E>(args, row, kv_head, position);
  const int64_t offset = position % args.page_size * args.head_dim;
  return {page.keys + offset, page.values + offset};
}

// Writes one token's key and value into a block of 16 in operand layout. A value in an even slot also clears its
// partner, so that a pair without its second token multiplies a zero and not the value of an earlier owner.
template <class T>
GLLM_INLINE void put_in_block(typename T::Elem* keys, typename T::Elem* values, int64_t slot, int64_t head_dim,
                              const typename T::Elem* key, const typename T::Elem* value) {
  constexpr int64_t step = T::step;
  for (int64_t d = 0; d < head_dim; d += step) {
    std::memcpy(keys + (d / step * kBlockTokens + slot) * step, key + d, step * sizeof(*key));
  }
  typename T::Elem* group = values + slot / step * head_dim * step;
  if constexpr (step == 1) {
    std::memcpy(group, value, static_cast<size_t>(head_dim) * sizeof(*value));
  } else {
    // Whole pairs, which compilers turn into vectors.
    using Pair = uint32_t __attribute__((may_alias));
    Pair* __restrict pairs = reinterpret_cast<Pair*>(group);
    if (slot % 2 == 0) {
      for (int64_t d = 0; d < head_dim; ++d) pairs[d] = value[d];
    } else {
      for (int64_t d = 0; d < head_dim; ++d) pairs[d] = (pairs[d] & 0xffffu) | static_cast<uint32_t>(value[d]) << 16;
    }
  }
}

template <class T>
GLLM_INLINE void write_token(const AttentionArgs& args, int64_t row, int64_t kv_head, int64_t token) {
  using E = typename T::Elem;
  const int64_t source = args.query_starts[row] + token;
  const int64_t position = args.kv_lens[row] - args.query_lens[row] + token;
  const int64_t hd = args.head_dim;
  const E* key = static_cast<const E*>(args.k) + source * args.k_stride + kv_head * hd;
  const E* value = static_cast<const E*>(args.v) + source * args.v_stride + kv_head * hd;
  const PageHead<E> page = page_head<E>(args, row, kv_head, position);
  const int64_t slot = position % args.page_size;
  if (args.page_size >= kBlockTokens) {
    const int64_t block = slot / kBlockTokens * kBlockTokens * hd;
    put_in_block<T>(page.keys + block, page.values + block, slot % kBlockTokens, hd, key, value);
  } else {
    std::memcpy(page.keys + slot * hd, key, static_cast<size_t>(hd) * sizeof(E));
    std::memcpy(page.values + slot * hd, value, static_cast<size_t>(hd) * sizeof(E));
  }
}

void attention_write(const AttentionArgs* args, int64_t index) {
  const AttentionWrite& write = args->writes[index];
  for (int64_t head = 0; head < args->kv_heads; ++head) {
    for (int64_t token = write.token_begin; token < write.token_end; ++token) {
      if (args->dtype == gllm::DType::bf16) {
        write_token<Bf16>(*args, write.row, head, token);
      } else {
        write_token<F32>(*args, write.row, head, token);
      }
    }
  }
}

}  // namespace
