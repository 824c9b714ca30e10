// The Python module: pointers and sizes in, nothing but plain C API, so that it builds in seconds and works with every
// torch. The callers in Python own all checks of types and shapes.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "kernels.h"
#include "plan.h"
#include "pool.h"
#include "reader.h"
#include "tape.h"

namespace {

using namespace gllm;

const Kernels* g_kernels = nullptr;

// Work below this many multiply-adds (about a millisecond) keeps the interpreter lock: giving it up hundreds of times a
// decode step would cost a turn of the interpreter's switch interval each time another Python thread is busy.
constexpr double kReleaseWork = 1e8;
// Elements that are worth waking another thread for.
constexpr int64_t kChunkElements = 16384;

template <class Args>
struct Job {
  void (*fn)(const Args*, int64_t);
  const Args* args;
  static void run(const void* context, int64_t chunk) {
    const Job* job = static_cast<const Job*>(context);
    job->fn(job->args, chunk);
  }
};

template <class Args>
void run_chunks(int64_t chunks, void (*fn)(const Args*, int64_t), const Args& args) {
  const Job<Args> job{fn, &args};
  parallel_for(chunks, &Job<Args>::run, &job);
}

template <class Fn>
void without_lock(double work, const Fn& fn) {
  if (work < kReleaseWork) return fn();
  PyThreadState* state = PyEval_SaveThread();
  fn();
  PyEval_RestoreThread(state);
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

thread_local Tape* t_tape = nullptr;  // that this thread records

// Runs a call on n rows now, or appends it to the tape that is being recorded; row_work: multiply-adds of a row.
template <class Fn>
PyObject* perform(int64_t n, double row_work, Fn call) {
  if (t_tape == nullptr) {
    without_lock(row_work * static_cast<double>(n), [&] { call(n, nullptr); });
  } else if (n == t_tape->rows) {
    t_tape->append(row_work, 0, call);
  } else {
    return PyErr_Format(PyExc_RuntimeError, "a kernel takes %lld of the tape's %lld rows", static_cast<long long>(n),
                        static_cast<long long>(t_tape->rows));
  }
  Py_RETURN_NONE;
}

// A kernel whose chunks are some of the n * `heads` rows.
template <class Args>
PyObject* perform_rows(Args a, void (*kernel)(const Args*, int64_t), int64_t rows_per_chunk, int64_t heads = 1) {
  return perform(a.n, 0, [=](int64_t n, const AttentionPlan*) mutable {
    a.n = n;
    run_chunks(divide_up(n * heads, rows_per_chunk), kernel, a);
  });
}

using Args = PyObject* const*;

int64_t rows_per_chunk(int64_t row_elements) { return std::max<int64_t>(1, kChunkElements / row_elements); }

// Instruction sets this build has and this CPU can run, best first.
std::vector<const Kernels*> runnable() {
  std::vector<const Kernels*> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
#ifdef GLLM_WITH_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16")) {
    found.push_back(&kernels_avx512);
  }
#endif
#ifdef GLLM_WITH_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kernels_avx2);
#endif
  found.push_back(&kernels_scalar);
  return found;
}

PyObject* supported_isas(PyObject*, PyObject*) {
  const auto found = runnable();
  PyObject* names = PyTuple_New(static_cast<Py_ssize_t>(found.size()));
  if (names == nullptr) return nullptr;
  for (size_t i = 0; i < found.size(); ++i) {
    PyObject* name = PyUnicode_FromString(found[i]->name);
    if (name == nullptr) {
      Py_DECREF(names);
      return nullptr;
    }
    PyTuple_SET_ITEM(names, static_cast<Py_ssize_t>(i), name);
  }
  return names;
}

PyObject* select_isa(PyObject*, PyObject* name) {
  const char* wanted = PyUnicode_AsUTF8(name);
  if (wanted == nullptr) return nullptr;
  for (const Kernels* kernels : runnable()) {
    if (PyUnicode_CompareWithASCIIString(name, kernels->name) == 0) {
      g_kernels = kernels;
      Py_RETURN_NONE;
    }
  }
  return PyErr_Format(PyExc_ValueError, "this CPU or build has no '%s' kernels", wanted);
}

PyObject* isa(PyObject*, PyObject*) { return PyUnicode_FromString(g_kernels->name); }

PyObject* py_set_num_threads(PyObject*, PyObject* count) {
  const long threads = PyLong_AsLong(count);
  if (threads == -1 && PyErr_Occurred()) return nullptr;
  set_num_threads(static_cast<int>(std::min(std::max(threads, 1L), 1024L)));
  Py_RETURN_NONE;
}

PyObject* py_num_threads(PyObject*, PyObject*) { return PyLong_FromLong(num_threads()); }

PyObject* panel_width(PyObject*, PyObject*) { return PyLong_FromLong(g_kernels->panel); }

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

// The arguments that both products have, and how their work is divided; `panels` is the caller's.
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
  // Threads that take whole panels to the end would wait there for each other, for long where they are few or one has lost
  // its core: the last of them are cut by rows, into parts of two tiles of rows or more.
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
  if (t_tape != nullptr) t_tape->link(product, g_kernels->panel);
  return perform(a.n, row_work, [product, kernel](int64_t n, const AttentionPlan*) { run_linear(*product, n, kernel); });
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

constexpr const char* kPlanName = "gllm_kernels.AttentionPlan";
constexpr const char* kTapeName = "gllm_kernels.Tape";

template <class T>
void delete_object(PyObject* capsule) {
  delete static_cast<T*>(PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule)));
}

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

#define GLLM_FAST(name) \
  {#name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(name)), METH_FASTCALL, nullptr}

PyMethodDef kMethods[] = {
    {"supported_isas", supported_isas, METH_NOARGS, nullptr},
    {"select_isa", select_isa, METH_O, nullptr},
    {"isa", isa, METH_NOARGS, nullptr},
    {"set_num_threads", py_set_num_threads, METH_O, nullptr},
    {"num_threads", py_num_threads, METH_NOARGS, nullptr},
    {"panel_width", panel_width, METH_NOARGS, nullptr},
    GLLM_FAST(pack),
    GLLM_FAST(linear), GLLM_FAST(linear_gated),
    GLLM_FAST(rms_norm),
    GLLM_FAST(rope),
    GLLM_FAST(silu_and_mul),
    GLLM_FAST(argmax),
    GLLM_FAST(log_sum_exp),
    GLLM_FAST(attention_plan),
    GLLM_FAST(attention),
    GLLM_FAST(record),
    GLLM_FAST(replay),
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef kModule = {PyModuleDef_HEAD_INIT, "_native", nullptr, -1, kMethods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__native() {
  g_kernels = runnable().front();
  return PyModule_Create(&kModule);
}
