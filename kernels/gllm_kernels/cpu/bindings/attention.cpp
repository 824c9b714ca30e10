// Attention over a step's work list, and CPU graphs, which are launched with one.
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "bindings/call.h"
#include "bindings/functions.h"
#include "bindings/reader.h"
#include "graph.h"
#include "work_list.h"

namespace gllm {
namespace {

constexpr const char* kWorkListName = "gllm_kernels.AttentionWorkList";
constexpr const char* kGraphName = "gllm_kernels.CpuGraph";

template <class T>
void delete_object(PyObject* capsule) {
  delete static_cast<T*>(PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule)));
}

void run_attention(AttentionArgs& a, const AttentionWorkList& list) {
  a.query_starts = list.query_starts.data();
  a.query_lens = list.query_lens.data();
  a.kv_lens = list.kv_lens.data();
  a.block_tables = list.block_tables.data();
  a.max_pages = list.max_pages;
  a.num_decode_rows = list.num_decode_rows;
  a.tasks = list.tasks.data();
  a.num_chunks = static_cast<int64_t>(list.chunk_starts.size()) - 1;
  a.chunk_starts = list.chunk_starts.data();
  a.threads = num_threads();
  a.writes = list.writes.data();
  a.merges = list.merges.data();
  std::vector<float> partials(static_cast<size_t>(list.num_partials * (a.heads / a.kv_heads) * (a.head_dim + 2)));
  a.partials = partials.data();
  run_chunks(static_cast<int64_t>(list.writes.size()), g_kernels->attention_write, a);
  run_chunks(a.num_chunks, g_kernels->attention, a);
  run_chunks(static_cast<int64_t>(list.merges.size()), g_kernels->attention_merge, a);
}

}  // namespace

PyObject* attention_work_list(PyObject*, Args args, Py_ssize_t count) {
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
  return PyCapsule_New(new AttentionWorkList(batch, heads, kv_heads, page_size), kWorkListName,
                       delete_object<AttentionWorkList>);
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
  a.score_divisor = in.real();
  a.heads = in.integer();
  a.kv_heads = in.integer();
  a.head_dim = in.integer();
  a.page_size = in.integer();
  a.dtype = in.dtype();
  if (!in.ok()) return nullptr;
  const double list_work = static_cast<double>(a.head_dim);
  if (t_capturing != nullptr) {
    t_capturing->link(a);
    t_capturing->append(0, list_work, [a](int64_t, const AttentionWorkList* list) mutable { run_attention(a, *list); });
    Py_RETURN_NONE;
  }
  const auto* list = static_cast<const AttentionWorkList*>(PyCapsule_GetPointer(capsule, kWorkListName));
  if (list == nullptr) return nullptr;
  without_lock(list->work * list_work, [&] { run_attention(a, *list); });
  Py_RETURN_NONE;
}

PyObject* capture(PyObject*, Args args, Py_ssize_t count) {
  Reader in(args, count);
  PyObject* forward = in.object();
  const int64_t rows = in.integer();
  if (!in.ok()) return nullptr;
  auto graph = std::make_unique<CpuGraph>(rows);
  CpuGraph* const outer = std::exchange(t_capturing, graph.get());
  PyObject* result = PyObject_CallNoArgs(forward);
  t_capturing = outer;
  if (result == nullptr) return nullptr;
  Py_DECREF(result);
  return PyCapsule_New(graph.release(), kGraphName, delete_object<CpuGraph>);
}

PyObject* launch(PyObject*, Args args, Py_ssize_t count) {
  Reader in(args, count);
  PyObject* graph_capsule = in.object();
  const int64_t n = in.integer();
  PyObject* list_capsule = in.object();
  if (!in.ok()) return nullptr;
  const auto* graph = static_cast<const CpuGraph*>(PyCapsule_GetPointer(graph_capsule, kGraphName));
  if (graph == nullptr) return nullptr;
  const auto* list = static_cast<const AttentionWorkList*>(PyCapsule_GetPointer(list_capsule, kWorkListName));
  if (list == nullptr) return nullptr;
  if (n > graph->rows || n != list->num_tokens) {
    return PyErr_Format(PyExc_ValueError, "launch with %lld rows of a graph of %lld rows, with a work list of %lld",
                        static_cast<long long>(n), static_cast<long long>(graph->rows),
                        static_cast<long long>(list->num_tokens));
  }
  without_lock(graph->work(n, *list), [&] { graph->launch(n, *list); });
  Py_RETURN_NONE;
}

}  // namespace gllm
