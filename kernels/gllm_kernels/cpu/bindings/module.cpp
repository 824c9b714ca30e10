// The Python module. It takes pointers and sizes and uses the plain C API only, so that it builds in seconds and works
// with every version of torch. The callers in Python check types and shapes.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <vector>

#include "bindings/call.h"
#include "bindings/functions.h"

namespace gllm {

const Kernels* g_kernels = nullptr;
thread_local CpuGraph* t_capturing = nullptr;

}  // namespace gllm

namespace {

using namespace gllm;

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
    GLLM_FAST(attention_work_list),
    GLLM_FAST(attention),
    GLLM_FAST(capture),
    GLLM_FAST(launch),
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef kModule = {PyModuleDef_HEAD_INIT, "_native", nullptr, -1, kMethods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__native() {
  g_kernels = runnable().front();
  return PyModule_Create(&kModule);
}
