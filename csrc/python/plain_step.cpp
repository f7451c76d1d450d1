// One step of all rows.
#include "python/plain_stream.h"

namespace futurefill {
namespace {

// The first value of a contiguous (rows, channels) tensor that `read_tensor` reads, or null.
char* values_of(const PlainStream& s, PyObject* object, bool grad_mode) {
  Values x;
  if (!read_tensor(s, object, grad_mode, x) || x.dim != 2 || x.sizes[0] != s.rows ||
      x.sizes[1] != s.channels || (s.channels > 1 && x.strides[1] != 1) ||
      (s.rows > 1 && x.strides[0] != s.channels)) {
    return nullptr;
  }
  return x.data;
}

// Whether memory that a step writes lies across what it reads: the very same memory is right, as
// every value is read before its place is written.
bool across(const char* y, const char* x, int64_t bytes) {
  return x && y != x && y < x + bytes && x < y + bytes;
}

const char* run_step(const PlainStream& s, const char* u, const char* pre, const char* post,
                     void* y, int64_t layer) {
  // other threads of Python can wait for what takes less than handing over to them
  if (s.is_short(s.stream, layer)) {
    return s.step(s.stream, u, pre, post, y, nullptr, s.rows, layer);
  }
  PyThreadState* state = PyEval_SaveThread();
  const char* error = s.step(s.stream, u, pre, post, y, nullptr, s.rows, layer);
  PyEval_RestoreThread(state);
  return error;
}

// step(u, layer, pre, post, rows, out): the output, or None where the call is not the common one
// and nothing has happened.
PyObject* step(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  const PlainStream& s = stream_of(self);
  if (count != 6) {
    PyErr_SetString(PyExc_TypeError, "expected u, layer, pre, post, rows and out");
    return nullptr;
  }
  PyObject *u = args[0], *pre = args[2], *post = args[3], *rows = args[4], *out = args[5];
  if (rows != Py_None || !PyLong_Check(args[1])) Py_RETURN_NONE;
  const long long layer = PyLong_AsLongLong(args[1]), left = steps_left(s, layer);
  if (!left) Py_RETURN_NONE;
  const bool grad = aoti_torch_grad_mode_is_enabled();
  const char *x = values_of(s, u, grad), *before = nullptr, *after = nullptr;
  if (!x) Py_RETURN_NONE;
  if (pre != Py_None && !(before = values_of(s, pre, grad))) Py_RETURN_NONE;
  if (post != Py_None && !(after = values_of(s, post, grad))) Py_RETURN_NONE;
  void* y;
  if (out == Py_None) {
    if (!(out = new_tensor(s, {s.rows, s.channels}, y))) return nullptr;
  } else {
    char* data = values_of(s, out, grad);
    const int64_t bytes = s.rows * s.channels * s.width;
    if (!data || across(data, x, bytes) || across(data, before, bytes) ||
        across(data, after, bytes)) {
      Py_RETURN_NONE;
    }
    Py_INCREF(out);
    y = data;
  }
  const long long next = layer + 1 < s.layers ? layer + 1 : 0;
  if (const char* error = run_step(s, x, before, after, y, layer)) {
    PyErr_SetString(PyExc_RuntimeError, error);
  } else if ((next == layer || book_layer(s, next)) && (next || book_steps_left(s, left - 1))) {
    return out;
  }
  Py_DECREF(out);
  return nullptr;
}

}  // namespace

PyMethodDef step_method = {
    "plain_step", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(step)), METH_FASTCALL,
    "plain_step(u, layer, pre, post, rows, out): the output of a step of all rows, or None where "
    "the call is not the common one and nothing has happened"};

}  // namespace futurefill
