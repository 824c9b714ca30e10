// Attention over a step's plan, and tapes, which are replayed with one.
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "bindings/call.h"
#include "bindings/functions.h"
#include "bindings/reader.h"
#include "plan.h"
#include "tape.h"

namespace gllm {
namespace {

constexpr const char* kPlanName = "gllm_kernels.AttentionPlan";
constexpr const char* kTapeName = "gllm_kernels.Tape";

template <class T>
void delete_object(PyObject* capsule) {
  delete static_cast<T*>(PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule)));
}

void run_attention(AttentionArgs& a, const AttentionPlan& plan) {
  a.query_starts = plan.query_starts.data();
  a.query_lens = plan.query_lens.data();
  a.kv_lens = plan.kv_lens.data();
  a.block_tables = plan.block_tables.data();
  a.max_pages = plan.max_pages;
  a.num_decode_rows = plan.num_decode_rows;
  a.tasks = plan.tasks.data();
  a.num_chunks = static_cast<int64_t>(plan.chunk_starts.size()) - 1;
  a.chunk_starts = plan.chunk_starts.data();
  a.threads = num_threads();
  a.writes = plan.writes.data();
  a.merges = plan.merges.data();
  std::vector<float> partials(static_cast<size_t>(plan.num_partials * (a.heads / a.kv_heads) * (a.head_dim + 2)));
  a.partials = partials.data();
  run_chunks(static_cast<int64_t>(plan.writes.size()), g_kernels->attention_write, a);
  run_chunks(a.num_chunks, g_kernels->attention, a);
  run_chunks(static_cast<int64_t>(plan.merges.size()), g_kernels->attention_merge, a);
}

}  // namespace

PyObject* attention_plan(PyObject*, Args args, Py_ssize_t count) {
  Reader in(args, count);
  Batch batch{};
  batch.query_lens = in.pointer<const int32_t>();
  batch.kv_lens = in.pointer<const int32_t>();
  batch.block_tables = in.pointer<const int32_t>();
  batch.rows = in.integer();
  batch.num_decode_rows = in.integer();
  batch.max_pages = in.integer();
  const int64_t heads = in.integer(), kv_heads = in.integer(), page_size = in.integer();
  if (!in.ok()) return nullptr;
  return PyCapsule_New(new AttentionPlan(batch, heads, kv_heads, page_size), kPlanName,
                       delete_object<AttentionPlan>);
}

PyObject* attention(PyObject*, Args args, Py_ssize_t count) {
  Reader in(args, count);
  PyObject* capsule = in.object();
  AttentionArgs a{};
  a.pool = in.pointer<void>();
  a.q = in.pointer<void>();
  a.q_stride = in.integer();
  a.k = in.pointer<void>();
  a.k_stride = in.integer();
  a.v = in.pointer<void>();
  a.v_stride = in.integer();
  a.out = in.pointer<void>();
  a.heads = in.integer();
  a.kv_heads = in.integer();
  a.head_dim = in.integer();
  a.page_size = in.integer();
  a.dtype = in.dtype();
  if (!in.ok()) return nullptr;
  const double plan_work = static_cast<double>(a.head_dim);
  if (t_tape != nullptr) {
    t_tape->link(a);
    t_tape->append(0, plan_work, [a](int64_t, const AttentionPlan* plan) mutable { run_attention(a, *plan); });
    Py_RETURN_NONE;
  }
  const auto* plan = static_cast<const AttentionPlan*>(PyCapsule_GetPointer(capsule, kPlanName));
  if (plan == nullptr) return nullptr;
  without_lock(plan->work * plan_work, [&] { run_attention(a, *plan); });
  Py_RETURN_NONE;
}

PyObject* record(PyObject*, Args args, Py_ssize_t count) {
  Reader in(args, count);
  PyObject* forward = in.object();
  const int64_t rows = in.integer();
  if (!in.ok()) return nullptr;
  auto tape = std::make_unique<Tape>(rows);
  Tape* const outer = std::exchange(t_tape, tape.get());
  PyObject* result = PyObject_CallNoArgs(forward);
  t_tape = outer;
  if (result == nullptr) return nullptr;
  Py_DECREF(result);
  return PyCapsule_New(tape.release(), kTapeName, delete_object<Tape>);
}

PyObject* replay(PyObject*, Args args, Py_ssize_t count) {
  Reader in(args, count);
  PyObject* tape_capsule = in.object();
  const int64_t n = in.integer();
  PyObject* plan_capsule = in.object();
  if (!in.ok()) return nullptr;
  const auto* tape = static_cast<const Tape*>(PyCapsule_GetPointer(tape_capsule, kTapeName));
  if (tape == nullptr) return nullptr;
  const auto* plan = static_cast<const AttentionPlan*>(PyCapsule_GetPointer(plan_capsule, kPlanName));
  if (plan == nullptr) return nullptr;
  if (n > tape->rows || n != plan->num_tokens) {
    return PyErr_Format(PyExc_ValueError, "replay of %lld rows, of a tape of %lld and a plan of %lld",
                        static_cast<long long>(n), static_cast<long long>(tape->rows),
                        static_cast<long long>(plan->num_tokens));
  }
  without_lock(tape->work(n, *plan), [&] { tape->replay(n, *plan); });
  Py_RETURN_NONE;
}

}  // namespace gllm
