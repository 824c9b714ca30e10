// The functions of the Python module that call kernels; _native.pyi lists their arguments.
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>

namespace gllm {

using Args = PyObject* const*;

PyObject* pack(PyObject*, Args args, Py_ssize_t count);
PyObject* linear(PyObject*, Args args, Py_ssize_t count);
PyObject* linear_gated(PyObject*, Args args, Py_ssize_t count);
PyObject* rms_norm(PyObject*, Args args, Py_ssize_t count);
PyObject* rope(PyObject*, Args args, Py_ssize_t count);
PyObject* silu_and_mul(PyObject*, Args args, Py_ssize_t count);
PyObject* argmax(PyObject*, Args args, Py_ssize_t count);
PyObject* log_sum_exp(PyObject*, Args args, Py_ssize_t count);
PyObject* attention_work_list(PyObject*, Args args, Py_ssize_t count);
PyObject* attention(PyObject*, Args args, Py_ssize_t count);
PyObject* capture(PyObject*, Args args, Py_ssize_t count);
PyObject* launch(PyObject*, Args args, Py_ssize_t count);

}  // namespace gllm
