// A CPU graph: the kernel calls of a forward pass, captured once and launched without the Python between them.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "kernels.h"
#include "work_list.h"

namespace gllm {

// A kernel call with all its arguments but the number of rows and the step's attention work list.
using Call = std::function<void(int64_t n, const AttentionWorkList* list)>;

// Strides, weights and buffers do not depend on the number of rows, so a graph serves all smaller numbers.
class CpuGraph {
 public:
  explicit CpuGraph(int64_t rows) : rows(rows) {}

  void append(double row_work, double list_work, Call call) {
    row_work_ += row_work;
    list_work_ += list_work;
    calls_.push_back(std::move(call));
  }

  // Tells the product before this one which weight it prefetches at its end.
  void link(const std::shared_ptr<LinearArgs>& product, int64_t panel) {
    if (!products_.empty()) {
      LinearArgs& last = *products_.back();
      last.then = product->weight;
      last.then_panel = (product->in + 1) / 2 * 2 * panel * static_cast<int64_t>(size_of(product->dtype));
    }
    products_.push_back(product);
  }

  // Lets the products since the previous attention prefetch the pages of this one.
  void link(const AttentionArgs& attention) {
    const int64_t elements = 2 * attention.page_size * attention.kv_heads * attention.head_dim;
    auto ahead = std::make_unique<PagesAhead>();
    ahead->pool = static_cast<const char*>(attention.pool);
    ahead->page_bytes = elements * static_cast<int64_t>(size_of(attention.dtype));
    for (; num_linked_ < products_.size(); ++num_linked_) products_[num_linked_]->pages_ahead = ahead.get();
    pages_ahead_.push_back(std::move(ahead));
  }

  void launch(int64_t n, const AttentionWorkList& list) const {
    const auto pages = static_cast<int64_t>(list.decode_pages.size());
    for (const auto& ahead : pages_ahead_) {
      ahead->pages = list.decode_pages.data();
      ahead->left.store(std::min(pages, kMostAhead / ahead->page_bytes), std::memory_order_relaxed);
    }
    for (const Call& call : calls_) call(n, &list);
  }

  // Multiply-adds of a launch.
  double work(int64_t n, const AttentionWorkList& list) const {
    return row_work_ * static_cast<double>(n) + list_work_ * list.work;
  }

  const int64_t rows;  // the number it was captured with, which is the most that it serves

 private:
  // Pages that come too early are evicted again: half of a common last-level cache.
  static constexpr int64_t kMostAhead = 16 << 20;

  double row_work_ = 0, list_work_ = 0;
  std::vector<Call> calls_;
  std::vector<std::shared_ptr<LinearArgs>> products_;
  std::vector<std::unique_ptr<PagesAhead>> pages_ahead_;
  size_t num_linked_ = 0;  // products that an attention follows
};

}  // namespace gllm
