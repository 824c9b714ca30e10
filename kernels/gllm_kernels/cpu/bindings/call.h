// How a kernel is called: with which instruction set, on which threads, with or without the interpreter's lock, now or
// when the graph that is being captured is launched.
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>

#include "kernels.h"
#include "pool.h"
#include "graph.h"

namespace gllm {

// The instruction set in use.
extern const Kernels* g_kernels;

// The graph that this thread captures, or null.
extern thread_local CpuGraph* t_capturing;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

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

// Work below this many multiply-adds (about a millisecond) keeps the interpreter lock. A decode step makes hundreds of
// calls, and each release would cost a switch interval of the interpreter whenever another Python thread is busy.
inline constexpr double kReleaseWork = 1e8;

template <class Fn>
void without_lock(double work, const Fn& fn) {
  if (work < kReleaseWork) return fn();
  PyThreadState* state = PyEval_SaveThread();
  fn();
  PyEval_RestoreThread(state);
}

// Runs a call on n rows now, or appends it to the graph that is being captured; row_work: multiply-adds of a row.
template <class Fn>
PyObject* perform(int64_t n, double row_work, Fn call) {
  if (t_capturing == nullptr) {
    without_lock(row_work * static_cast<double>(n), [&] { call(n, nullptr); });
  } else if (n == t_capturing->rows) {
    t_capturing->append(row_work, 0, call);
  } else {
    return PyErr_Format(PyExc_RuntimeError, "a kernel takes %lld of the graph's %lld rows", static_cast<long long>(n),
                        static_cast<long long>(t_capturing->rows));
  }
  Py_RETURN_NONE;
}

}  // namespace gllm
