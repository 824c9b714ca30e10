// Matrix products, and the division of their work into chunks.
#include <algorithm>
#include <cstdint>
#include <memory>

#include "bindings/call.h"
#include "bindings/functions.h"
#include "bindings/reader.h"

namespace gllm {
namespace {

// The arguments that both products have; `panels` is the caller's.
LinearArgs read_linear(Reader& in) {
  LinearArgs a{};
  a.x = in.pointer<void>();
  a.x_stride = in.integer();
  a.weight = in.pointer<void>();
  a.bias = in.pointer<void>();
  a.out = in.pointer<void>();
  a.n = in.integer();
  a.in = in.integer();
  a.out_features = in.integer();
  a.dtype = in.dtype();
  return a;
}

void run_linear(LinearArgs& a, int64_t n, void (*kernel)(const LinearArgs*, int64_t)) {
  if (n == 0) return;
  a.n = n;
  a.threads = num_threads();
  // Rows of x that fill less than half of a second-level cache, in even blocks.
  constexpr int64_t kBlockBytes = 384 << 10;
  const int64_t fit = std::max<int64_t>(48, kBlockBytes / (a.in * static_cast<int64_t>(size_of(a.dtype))));
  const int64_t blocks = divide_up(n, fit);
  a.row_block = divide_up(n, blocks);
  // If threads took whole panels to the end, they would wait there for each other, and long if panels are few or a
  // thread has lost its core. So the last panels are cut by rows, into parts of at least two tiles of rows.
  constexpr int64_t kPartRows = 12, kManyRows = 48;
  const int64_t chunks = divide_up(n, a.row_block) * a.panels;
  a.parts = std::clamp<int64_t>(a.row_block / kPartRows, 1, 4 * a.threads);
  const int64_t left = a.parts == 1 ? 0 : chunks % a.threads + (a.row_block < kManyRows ? 0 : a.threads);
  a.whole = std::max<int64_t>(0, chunks - left);
  run_chunks(a.whole + (chunks - a.whole) * a.parts, kernel, a);
}

PyObject* perform_linear(const LinearArgs& a, void (*kernel)(const LinearArgs*, int64_t)) {
  const double row_work = static_cast<double>(a.in) * static_cast<double>(a.out_features);
  const auto product = std::make_shared<LinearArgs>(a);
  if (t_capturing != nullptr) t_capturing->link(product, g_kernels->panel);
  return perform(a.n, row_work,
                 [product, kernel](int64_t n, const AttentionWorkList*) { run_linear(*product, n, kernel); });
}

}  // namespace

PyObject* pack(PyObject*, Args args, Py_ssize_t count) {
  Reader in(args, count);
  PackArgs a{};
  a.weight = in.pointer<void>();
  a.stride = in.integer();
  a.out = in.pointer<void>();
  a.out_features = in.integer();
  a.in = in.integer();
  a.dtype = in.dtype();
  if (!in.ok()) return nullptr;
  without_lock(1e9, [&] { run_chunks(divide_up(a.out_features, g_kernels->panel), g_kernels->pack, a); });
  Py_RETURN_NONE;
}

PyObject* linear(PyObject*, Args args, Py_ssize_t count) {
  Reader in(args, count);
  LinearArgs a = read_linear(in);
  a.out_f32 = in.integer() != 0;
  if (!in.ok()) return nullptr;
  a.panels = divide_up(a.out_features, g_kernels->panel);
  return perform_linear(a, g_kernels->linear);
}

PyObject* linear_gated(PyObject*, Args args, Py_ssize_t count) {
  Reader in(args, count);
  LinearArgs a = read_linear(in);
  if (!in.ok()) return nullptr;
  if (a.out_features % (2 * g_kernels->panel) != 0) {
    PyErr_SetString(PyExc_ValueError, "linear_gated: both halves must consist of whole panels");
    return nullptr;
  }
  a.panels = a.out_features / 2 / g_kernels->panel;
  return perform_linear(a, g_kernels->linear_gated);
}

}  // namespace gllm
