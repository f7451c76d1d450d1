// A bound stream (bindings/bound_step.h) as Python calls it, and tensors as they come from there.
// Limited API of Python 3.10 and torch's stable C functions: one binary serves several versions of
// both.
#pragma once

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <initializer_list>

#include "bindings/bound_step.h"
#include "bindings/reorder.h"

namespace futurefill {

// An attribute of an object, and where the object keeps it: it is read and written there, which
// spares looking it up. 0 where it has no such place.
struct Attribute {
  PyObject* name;
  Py_ssize_t at;
};

// References are owned.
struct PlainStream {
  // of another library
  decltype(&futurefill_step) step;
  decltype(&futurefill_step_is_short) is_short;
  decltype(&futurefill_begin_block) begin_block;
  decltype(&futurefill_block) block;
  decltype(&futurefill_take_back) take_back;
  decltype(&futurefill_kept_bytes) kept_bytes;
  decltype(&futurefill_reorder_alike) reorder_alike;
  BoundStream* stream;
  PyObject* owner;               // the bound stream lives as long
  PyObject* books;               // a cache/positions.py
  Attribute plain, layer, open;  // of the books
  PyObject* tensor;              // torch.Tensor
  int64_t rows, channels, layers, width;
  int32_t dtype;
};

// That of the capsule to which a method is bound.
PlainStream& stream_of(PyObject* capsule);

// Steps of all rows that may follow, the next of them at that layer; 0 where Python has to see to
// it.
long long steps_left(const PlainStream& s, long long layer);

// Numbers in the books; false with an error.
bool book_layer(const PlainStream& s, long long layer);
bool book_steps_left(const PlainStream& s, long long steps);

// A tensor's memory.
struct Values {
  char* data;
  int64_t dim;
  int64_t *sizes, *strides;

  bool has_sizes(std::initializer_list<int64_t> expected) const;
};

// That of a tensor of the stream's dtype on the CPU that wants no gradient and is not lazily
// negated, which its memory would not show; false for other objects.
bool read_tensor(const PlainStream& s, PyObject* object, bool grad_mode, Values& values);

// A new tensor for results, contiguous, and its memory; null with an error.
PyObject* new_tensor(const PlainStream& s, std::initializer_list<int64_t> sizes, void*& data);

// The methods that `make` binds.
extern PyMethodDef step_method, run_method, generate_method, take_back_method, kept_bytes_method,
    reorder_method;

}  // namespace futurefill
