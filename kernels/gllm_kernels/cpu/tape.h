// A forward pass as a list of kernel calls, to be run again without the Python that stands between them.
#pragma once
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
    if (last_ != nullptr) {
      last_->then = product->weight;
      last_->then_panel = (product->in + 1) / 2 * 2 * panel * static_cast<int64_t>(size_of(product->dtype));
    }
    last_ = product;
  }

  void replay(int64_t n, const AttentionPlan& plan) const {
    for (const Call& call : calls_) call(n, &plan);
  }

  // Multiply-adds of a replay.
  double work(int64_t n, const AttentionPlan& plan) const {
    return row_work_ * static_cast<double>(n) + plan_work_ * plan.work;
  }

  const int64_t rows;  // for which it was recorded: the most it serves

 private:
  double row_work_ = 0, plan_work_ = 0;
  std::vector<Call> calls_;
  std::shared_ptr<LinearArgs> last_;
};

}  // namespace gllm
