// Where keys and values lie, and the order in which decodes read them.
#pragma once
#include "kernels.h"
#include "operand.h"

namespace {

using gllm::AttentionArgs;
using gllm::AttentionTask;
using gllm::kBlockTokens;
using gllm::kSegmentTokens;

// Where keys and values of one head of one page lie.
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

// Where the block of keys and values that begins at `position` lies; pages hold whole blocks.
template <class E>
GLLM_INLINE PageHead<E> block_at(const AttentionArgs& args, int64_t row, int64_t kv_head, int64_t position) {
  const PageHead<E> page = page_head<E>(args, row, kv_head, position);
  const int64_t offset = position % args.page_size * args.head_dim;
  return {page.keys + offset, page.values + offset};
}

// The blocks of keys and values that a thread reads while it decodes, some blocks ahead of where it works: through the
// tasks of its chunk, then of the chunk that it will most likely take next. Decode reads every key once, so memory is its
// limit and has to be busy all the time.
template <class E>
class KvStream {
 public:
  static constexpr int kAhead = 4;  // blocks

  KvStream(const AttentionArgs& args, int64_t chunk) : args_(args), chunk_(chunk), task_(args.chunk_starts[chunk]) {
    enter();
    for (int i = 0; i < kAhead; ++i) skip();
  }

  // The next block, or false where there is none.
  bool next(PageHead<E>& block) {
    if (position_ >= end_) return false;
    const AttentionTask& task = args_.tasks[task_];
    block = block_at<E>(args_, task.row, task.kv_head, position_);
    skip();
    return true;
  }

 private:
  void skip() {
    if (position_ >= end_) return;  // of the last chunk
    position_ += kBlockTokens;
    if (position_ < end_) return;
    if (++task_ == args_.chunk_starts[chunk_ + 1]) {
      chunk_ += args_.threads;
      if (chunk_ >= args_.num_chunks) return;
      task_ = args_.chunk_starts[chunk_];
    }
    enter();
  }

  void enter() {
    const AttentionTask& task = args_.tasks[task_];
    const int64_t keys = args_.kv_lens[task.row], last = task.segment_end * int64_t{kSegmentTokens};
    position_ = task.segment_begin * int64_t{kSegmentTokens};
    end_ = last < keys ? last : keys;
  }

  const AttentionArgs& args_;
  int64_t chunk_;
  int32_t task_;
  int64_t position_ = 0, end_ = 0;
};

}  // namespace
