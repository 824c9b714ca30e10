#include "work_list.h"

#include <algorithm>

#include "pool.h"

namespace gllm {
namespace {

// Query rows that share one pass over the keys: enough to hide the loads, few enough for the first-level cache.
constexpr int64_t kTileRows = 48;
constexpr int64_t kWriteTokens = 64;

int32_t narrow(int64_t value) { return static_cast<int32_t>(value); }

int64_t segments_of(int64_t keys) { return (keys + kSegmentTokens - 1) / kSegmentTokens; }

}  // namespace

AttentionWorkList::AttentionWorkList(const Batch& batch, int64_t heads, int64_t kv_heads, int64_t page_size)
    : num_decode_rows(batch.num_decode_rows),
      query_lens(batch.query_lens, batch.query_lens + batch.rows),
      kv_lens(batch.kv_lens, batch.kv_lens + batch.rows) {
  // Only the columns in use are copied: tables are often as wide as the longest sequence allowed.
  int64_t longest = 1;
  for (int32_t len : kv_lens) longest = std::max<int64_t>(longest, len);
  max_pages = std::min((longest + page_size - 1) / page_size, batch.max_pages);
  block_tables.resize(static_cast<size_t>(batch.rows * max_pages));
  for (int64_t row = 0; row < batch.rows; ++row) {
    std::copy_n(batch.block_tables + row * batch.max_pages, max_pages, block_tables.begin() + row * max_pages);
  }

  const int64_t group = heads / kv_heads;
  // The longest tasks go first, so that the threads end together: prompts from their last tile back, then decodes.
  // Few decodes are cut into segments of keys, so that all threads have work; the cut does not change the result.
  const bool split = batch.num_decode_rows * kv_heads < 4 * num_threads();
  for (int64_t row = 0; row < batch.rows; ++row) {
    query_starts.push_back(narrow(num_tokens));
    num_tokens += query_lens[row];
  }
  for (int64_t row = num_decode_rows; row < batch.rows; ++row) {
    const int64_t len = query_lens[row], before = kv_lens[row] - len;
    const int64_t step = std::max<int64_t>(1, kTileRows / group);
    for (int64_t end = len; end > 0; end -= std::min(step, end)) {
      const int64_t begin = std::max<int64_t>(0, end - step);
      for (int64_t head = 0; head < kv_heads; ++head) {
        chunk_starts.push_back(narrow(static_cast<int64_t>(tasks.size())));
        tasks.push_back({narrow(row), narrow(head), narrow(begin), narrow(end), 0,
                         narrow(segments_of(before + end)), -1});
      }
      work += 2.0 * static_cast<double>((end - begin) * heads * (before + end));
    }
    // Written in pieces whose ends are multiples of a block, so that no two threads meet in one.
    for (int64_t begin = 0; begin < len;) {
      const int64_t end = std::min(len, (before + begin) / kWriteTokens * kWriteTokens + kWriteTokens - before);
      writes.push_back({narrow(row), narrow(begin), narrow(end)});
      begin = end;
    }
  }
  for (int64_t row = 0; row < num_decode_rows; ++row) {
    const auto pages = block_tables.begin() + row * max_pages;
    decode_pages.insert(decode_pages.end(), pages, pages + (kv_lens[row] + page_size - 1) / page_size);
    const int64_t segments = segments_of(kv_lens[row]);
    if (!split) chunk_starts.push_back(narrow(static_cast<int64_t>(tasks.size())));
    for (int64_t head = 0; head < kv_heads; ++head) {
      if (split) chunk_starts.push_back(narrow(static_cast<int64_t>(tasks.size())));
      if (!split || segments == 1) {
        tasks.push_back({narrow(row), narrow(head), 0, 1, 0, narrow(segments), -1});
        continue;
      }
      merges.push_back({narrow(row), narrow(head), narrow(num_partials), narrow(segments)});
      for (int64_t s = 0; s < segments; ++s) {
        if (s > 0) chunk_starts.push_back(narrow(static_cast<int64_t>(tasks.size())));
        tasks.push_back({narrow(row), narrow(head), 0, 1, narrow(s), narrow(s + 1), narrow(num_partials++)});
      }
    }
    work += 2.0 * static_cast<double>(heads * kv_lens[row]);
  }
  chunk_starts.push_back(narrow(static_cast<int64_t>(tasks.size())));
}

}  // namespace gllm
