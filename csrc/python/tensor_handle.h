// Where a Python tensor keeps its handle, an at::Tensor. Limited API of Python 3.10 and torch's
// stable C functions: one binary serves several versions of both.
#pragma once

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstring>

namespace futurefill {
namespace {

// Bytes from a Python tensor to its handle; found by `find_handle`.
Py_ssize_t handle_at = 0;

inline AtenTensorHandle handle_of(PyObject* tensor) {
  return reinterpret_cast<AtenTensorHandle>(reinterpret_cast<char*>(tensor) + handle_at);
}

// The tensor's implementation, which its handle points to.
inline const void* impl_of(PyObject* tensor) {
  const void* impl;
  std::memcpy(&impl, handle_of(tensor), sizeof impl);
  return impl;
}

// The number that an attribute or method has given, whose reference is taken; false with an error.
inline bool number_of(PyObject* found, unsigned long long& number) {
  if (!found) return false;
  number = PyLong_AsUnsignedLongLong(found);
  Py_DECREF(found);
  return !PyErr_Occurred();
}

// Looks for the place at which all tensors hold their implementations, and where `right()` finds
// what it expects of their handles. Tensors of one type. False with an error.
template <class F>
bool find_handle(PyObject* const* tensors, int count, const F& right) {
  unsigned long long size, impl;
  auto* type = reinterpret_cast<PyObject*>(Py_TYPE(tensors[0]));
  if (!number_of(PyObject_GetAttrString(type, "__basicsize__"), size)) return false;
  const auto end = static_cast<Py_ssize_t>(size - sizeof(void*));
  for (handle_at = sizeof(PyObject); handle_at <= end; handle_at += sizeof(void*)) {
    bool held = true;
    for (int i = 0; i < count && held; ++i) {
      if (!number_of(PyObject_GetAttrString(tensors[i], "_cdata"), impl)) return false;
      held = reinterpret_cast<unsigned long long>(impl_of(tensors[i])) == impl;
    }
    if (held && right()) return true;
  }
  PyErr_SetString(PyExc_RuntimeError, "tensors are not laid out as expected");
  return false;
}

}  // namespace
}  // namespace futurefill
