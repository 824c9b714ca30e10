// What the Python module calls: plain argument structs and one table of functions per instruction set.
//
// Every function works on one chunk of a parallel_for. Rounding never depends on the chunking: each output element
// is the result of one fixed sequence of operations over its own row.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace gllm {

enum class DType : int { f32 = 0, bf16 = 1 };

inline size_t size_of(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

// Pages of keys and values that the next layer's attention will read. Products prefetch them, one per tile of rows,
// while memory has little else to do: from the last page to the first, so that the first page read is the newest.
struct PagesAhead {
  const char* pool;
  int64_t page_bytes;
  const int32_t* pages;
  std::atomic<int64_t> left;

  const char* take() {
    if (left.load(std::memory_order_relaxed) <= 0) return nullptr;
    const int64_t index = left.fetch_sub(1, std::memory_order_relaxed) - 1;
    return index < 0 ? nullptr : pool + pages[index] * page_bytes;
  }
};

// out[n, out_features] = x[n, in] * weight^T + bias. Weights are stored in panels of `panel` output features:
// bf16 [panels][ceil(in / 2)][panel][2], f32 [panels][in][panel]; features past the end are zero.
struct LinearArgs {
  const void* x;
  int64_t x_stride;  // elements from row to row, as in all structs here
  const void* weight;
  const void* bias;  // in x's type, or null
  void* out;         // contiguous
  int64_t n, in, out_features;
  DType dtype;
  bool out_f32;  // f32 results also for bf16 inputs
  int64_t panels;
  int64_t threads;    // that take chunks in turn
  // Chunks go through the panels of a block of rows, then of the next one. From `whole` on they are cut into `parts` by
  // their rows.
  int64_t row_block, whole, parts;
  // The weight of the product that follows, or null, and the bytes of one panel of it: prefetched at the end.
  const void* then;
  int64_t then_panel;
  PagesAhead* pages_ahead;  // or null
};

struct PackArgs {
  const void* weight;  // [out_features, in]
  int64_t stride;
  void* out;
  int64_t in, out_features;
  DType dtype;
};

// x[n, heads, size] / rms * weight -> out, contiguous. With `residual`: residual += x first, and the sum is normed.
struct NormArgs {
  const void* x;
  int64_t token_stride, head_stride;
  void* residual;  // [n, size] or null
  int64_t residual_stride;
  const void* weight;
  void* out;
  int64_t n, heads, size;
  float eps;
  DType dtype;
  int64_t rows_per_chunk;
};

struct RopeArgs {
  struct Heads {
    void* data;
    int64_t token_stride, head_stride, count;
  } q, k;
  const int64_t* positions;
  const float* cos_sin;  // [max_position, rotary_dim]
  int64_t n, rotary_dim;
  DType dtype;
  int64_t rows_per_chunk;
};

// silu(x[:, :size]) * x[:, size:]
struct SiluArgs {
  const void* x;
  int64_t stride;
  void* out;
  int64_t n, size;
  DType dtype;
  int64_t rows_per_chunk;
};

// One result a row of f32 logits: `index` the first maximum, `value` the log of the sum of exponentials.
struct RowArgs {
  const float* x;
  int64_t stride;
  int64_t* index;
  float* value;
  int64_t n, size;
};

// Attention computes a sequence in tiles of keys; tiles form segments. Each segment has its own softmax, and
// segments are merged in order. This defines the result, so it does not depend on how a prompt is chunked nor on which
// thread computes a segment.
constexpr int kBlockTokens = 16;
constexpr int kTileTokens = 64;
constexpr int kSegmentTokens = 256;
constexpr int kMaxTileRows = 128;
constexpr int kMaxHeadDim = 256;

struct AttentionTask {
  int32_t row, kv_head;
  int32_t token_begin, token_end;      // queries, counted in the row's new tokens
  int32_t segment_begin, segment_end;  // keys
  int32_t partial;                     // index of the partial for the state of a single segment; -1: write the output
};

struct AttentionWrite {
  int32_t row, token_begin, token_end;
};

struct AttentionMerge {
  int32_t row, kv_head, partial, count;
};

// The pool of a layer is [pages, kv_heads, 2, page_size, head_dim]: keys then values. When a page holds whole blocks of 16
// tokens, each block is stored as the operand the matrix kernels read: keys bf16 [head_dim / 2][16][2] or f32
// [head_dim][16], values bf16 [8][head_dim][2] or f32 [16][head_dim]. Smaller pages hold plain rows.
struct AttentionArgs {
  void* pool;
  DType dtype;
  int64_t heads, kv_heads, head_dim, page_size;
  float score_divisor;  // 1 / the softmax scale
  const int32_t *query_starts, *query_lens, *kv_lens;
  const int32_t* block_tables;
  int64_t max_pages;
  int64_t num_decode_rows;
  const AttentionTask* tasks;
  int64_t num_chunks;
  const int32_t* chunk_starts;  // [chunks + 1]: the tasks of each chunk
  int64_t threads;              // that take chunks in turn
  const AttentionWrite* writes;
  const AttentionMerge* merges;
  float* partials;  // per partial: group x (head_dim + 2)
  const void *q, *k, *v;
  int64_t q_stride, k_stride, v_stride;  // tokens; heads are head_dim apart
  void* out;                             // [tokens, heads, head_dim]
};

struct Kernels {
  const char* name;
  int panel;
  void (*pack)(const PackArgs*, int64_t panel);
  void (*linear)(const LinearArgs*, int64_t chunk);
  void (*linear_gated)(const LinearArgs*, int64_t chunk);
  void (*norm)(const NormArgs*, int64_t chunk);
  void (*rope)(const RopeArgs*, int64_t chunk);
  void (*silu_and_mul)(const SiluArgs*, int64_t chunk);
  void (*argmax)(const RowArgs*, int64_t row);
  void (*log_sum_exp)(const RowArgs*, int64_t row);
  void (*attention_write)(const AttentionArgs*, int64_t write);
  void (*attention)(const AttentionArgs*, int64_t chunk);
  void (*attention_merge)(const AttentionArgs*, int64_t merge);
};

extern const Kernels kernels_scalar;
#ifdef GLLM_WITH_AVX2
extern const Kernels kernels_avx2;
#endif
#ifdef GLLM_WITH_AVX512
extern const Kernels kernels_avx512;
#endif

}  // namespace gllm
