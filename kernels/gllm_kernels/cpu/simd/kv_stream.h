// The order in which decodes read keys and values.
#pragma once
#include "kernels.h"
#include "simd/kv_cache.h"

namespace {

using gllm::AttentionTask;
using gllm::kSegmentTokens;

// The blocks of keys and values that a thread prefetches while it decodes: through the tasks of its chunk, then of the
// chunk that it will most likely take next. Decode reads every key once, so memory bandwidth is its limit and must be
// used all the time.
template <class E>
class KvStream {
 public:
  static constexpr int kAhead = 4;  // blocks

  KvStream(const AttentionArgs& args, int64_t chunk) : args_(args), chunk_(chunk), task_(args.chunk_starts[chunk]) {
    enter();
    for (int i = 0; i < kAhead; ++i) skip();
  }

  // Sets the next block. False if there is none.
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
