// The work list of one step's attention: tasks of about equal size.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace gllm {

// A step as the host knows it: decode rows (one token) first, then prefill chunks.
struct Batch {
  int64_t rows, num_decode_rows, max_pages;
  const int32_t *query_lens, *kv_lens;
  const int32_t* block_tables;  // [rows, max_pages]
};

// Owns copies of everything, so that several lists may be alive at once and the caller's arrays may change.
struct AttentionWorkList {
  AttentionWorkList(const Batch& batch, int64_t heads, int64_t kv_heads, int64_t page_size);

  int64_t num_decode_rows, max_pages, num_tokens = 0, num_partials = 0;
  double work = 0;  // multiply-adds for each element of head_dim
  std::vector<int32_t> query_starts, query_lens, kv_lens, block_tables;
  std::vector<AttentionTask> tasks;
  std::vector<int32_t> chunk_starts;  // and the end of the last chunk
  std::vector<int32_t> decode_pages;  // in the order in which they are read
  std::vector<AttentionWrite> writes;
  std::vector<AttentionMerge> merges;
};

}  // namespace gllm
