// A forward pass as a list of kernel calls, to be run again without the Python that stands between them.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "kernels.h"
#include "plan.h"

namespace gllm {

// A kernel call with all its arguments but the number of rows and the step's attention plan.
using Call = std::function<void(int64_t n, const AttentionPlan* plan)>;

// Strides, weights and buffers do not depend on the number of rows, so a tape recorded for many serves fewer as well.
class Tape {
 public:
  explicit Tape(int64_t rows) : rows(rows) {}

  void append(double row_work, double plan_work, Call call) {
    row_work_ += row_work;
    plan_work_ += plan_work;
    calls_.push_back(std::move(call));
  }

  // Tells the product before this one what it may read ahead at its end.
  void link(const std::shared_ptr<LinearArgs>& product, int64_t panel) {
    if (!products_.empty()) {
      LinearArgs& last = *products_.back();
      last.then = product->weight;
      last.then_panel = (product->in + 1) / 2 * 2 * panel * static_cast<int64_t>(size_of(product->dtype));
    }
    products_.push_back(product);
  }

  // Has the products since the attention before this one read its pages ahead.
  void link(const AttentionArgs& attention) {
    const int64_t elements = 2 * attention.page_size * attention.kv_heads * attention.head_dim;
    auto ahead = std::make_unique<PagesAhead>();
    ahead->pool = static_cast<const char*>(attention.pool);
    ahead->page_bytes = elements * static_cast<int64_t>(size_of(attention.dtype));
    for (; num_linked_ < products_.size(); ++num_linked_) products_[num_linked_]->pages_ahead = ahead.get();
    pages_ahead_.push_back(std::move(ahead));
  }

  void replay(int64_t n, const AttentionPlan& plan) const {
    const auto pages = static_cast<int64_t>(plan.decode_pages.size());
    for (const auto& ahead : pages_ahead_) {
      ahead->pages = plan.decode_pages.data();
      ahead->left.store(std::min(pages, kMostAhead / ahead->page_bytes), std::memory_order_relaxed);
    }
    for (const Call& call : calls_) call(n, &plan);
  }

  // Multiply-adds of a replay.
  double work(int64_t n, const AttentionPlan& plan) const {
    return row_work_ * static_cast<double>(n) + plan_work_ * plan.work;
  }

  const int64_t rows;  // for which it was recorded: the most it serves

 private:
  // What comes too early is pushed out again: half of a common last-level cache.
  static constexpr int64_t kMostAhead = 16 << 20;

  double row_work_ = 0, plan_work_ = 0;
  std::vector<Call> calls_;
  std::vector<std::shared_ptr<LinearArgs>> products_;
  std::vector<std::unique_ptr<PagesAhead>> pages_ahead_;
  size_t num_linked_ = 0;  // products that an attention follows
};

}  // namespace gllm
