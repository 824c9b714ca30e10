// The positional arguments of a Python call.
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>

#include "kernels.h"

namespace gllm {

// Reads the positional arguments in order. Errors are checked once, at the end, by `ok`.
class Reader {
 public:
  Reader(PyObject* const* args, Py_ssize_t count) : args_(args), left_(count) {}

  PyObject* object() {
    if (left_ == 0) {
      bad_ = true;
      return nullptr;
    }
    --left_;
    return *args_++;
  }
  int64_t integer() {
    PyObject* value = object();
    return value == nullptr ? 0 : PyLong_AsLongLong(value);
  }
  float real() {
    PyObject* value = object();
    return value == nullptr ? 0.0f : static_cast<float>(PyFloat_AsDouble(value));
  }
  template <class T>
  T* pointer() {
    return reinterpret_cast<T*>(static_cast<uintptr_t>(integer()));
  }
  DType dtype() { return static_cast<DType>(integer()); }

  // True if every argument was given and has the right type, else a Python error is set.
  bool ok() {
    if (bad_ || left_ != 0) {
      if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "wrong number of arguments");
      return false;
    }
    return PyErr_Occurred() == nullptr;
  }

 private:
  PyObject* const* args_;
  Py_ssize_t left_;
  bool bad_ = false;
};

}  // namespace gllm
