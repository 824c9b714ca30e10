// Kernels that work row by row: norms, rope, activations and reductions of logits.
#include <algorithm>
#include <cstdint>

#include "bindings/call.h"
#include "bindings/functions.h"
#include "bindings/reader.h"

namespace gllm {
namespace {

// The elements that make it worth waking another thread.
constexpr int64_t kChunkElements = 16384;

int64_t rows_per_chunk(int64_t row_elements) { return std::max<int64_t>(1, kChunkElements / row_elements); }

// A kernel whose chunks are some of the n * `heads` rows.
template <class Args>
PyObject* perform_rows(Args a, void (*kernel)(const Args*, int64_t), int64_t rows_per_chunk, int64_t heads = 1) {
  return perform(a.n, 0, [=](int64_t n, const AttentionWorkList*) mutable {
    a.n = n;
    run_chunks(divide_up(n * heads, rows_per_chunk), kernel, a);
  });
}

RowArgs read_rows(Reader& in) {
  RowArgs a{};
  a.x = in.pointer<const float>();
  a.stride = in.integer();
  void* out = in.pointer<void>();
  a.index = static_cast<int64_t*>(out);
  a.value = static_cast<float*>(out);
  a.n = in.integer();
  a.size = in.integer();
  return a;
}

}  // namespace

PyObject* rms_norm(PyObject*, Args args, Py_ssize_t count) {
  Reader in(args, count);
  NormArgs a{};
  a.x = in.pointer<void>();
  a.token_stride = in.integer();
  a.head_stride = in.integer();
  a.residual = in.pointer<void>();
  a.residual_stride = in.integer();
  a.weight = in.pointer<void>();
  a.out = in.pointer<void>();
  a.n = in.integer();
  a.heads = in.integer();
  a.size = in.integer();
  a.eps = in.real();
  a.dtype = in.dtype();
  if (!in.ok()) return nullptr;
  a.rows_per_chunk = rows_per_chunk(a.size);
  return perform_rows(a, g_kernels->norm, a.rows_per_chunk, a.heads);
}

PyObject* rope(PyObject*, Args args, Py_ssize_t count) {
  Reader in(args, count);
  RopeArgs a{};
  for (RopeArgs::Heads* heads : {&a.q, &a.k}) {
    heads->data = in.pointer<void>();
    heads->token_stride = in.integer();
    heads->head_stride = in.integer();
    heads->count = in.integer();
  }
  a.positions = in.pointer<const int64_t>();
  a.cos_sin = in.pointer<const float>();
  a.n = in.integer();
  a.rotary_dim = in.integer();
  a.dtype = in.dtype();
  if (!in.ok()) return nullptr;
  a.rows_per_chunk = rows_per_chunk((a.q.count + a.k.count) * a.rotary_dim);
  return perform_rows(a, g_kernels->rope, a.rows_per_chunk);
}

PyObject* silu_and_mul(PyObject*, Args args, Py_ssize_t count) {
  Reader in(args, count);
  SiluArgs a{};
  a.x = in.pointer<void>();
  a.stride = in.integer();
  a.out = in.pointer<void>();
  a.n = in.integer();
  a.size = in.integer();
  a.dtype = in.dtype();
  if (!in.ok()) return nullptr;
  a.rows_per_chunk = rows_per_chunk(a.size);
  return perform_rows(a, g_kernels->silu_and_mul, a.rows_per_chunk);
}

PyObject* argmax(PyObject*, Args args, Py_ssize_t count) {
  Reader in(args, count);
  const RowArgs a = read_rows(in);
  if (!in.ok()) return nullptr;
  return perform_rows(a, g_kernels->argmax, 1);
}

PyObject* log_sum_exp(PyObject*, Args args, Py_ssize_t count) {
  Reader in(args, count);
  const RowArgs a = read_rows(in);
  if (!in.ok()) return nullptr;
  return perform_rows(a, g_kernels->log_sum_exp, 1);
}

}  // namespace gllm
