// futurefill_kernels._plain_step: a step of all rows of a bound stream (bindings/bound_step.h),
// checks and books included, as one call from Python. Limited API of Python 3.10; tensors are read
// through torch's DLPack exchange API: one binary serves several versions of both.
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#include <ATen/dlpack.h>
#include <Python.h>

#include <initializer_list>

namespace {

using Engine = const char* (*)(void* stream, const void* u, const void* pre, const void* post,
                               void* y, const int64_t* rows, int64_t n_rows, int64_t layer);

PyObject *is_neg, *requires_grad, *empty_like;  // names
PyObject *plain, *layer, *open;                 // of the books: cache/positions.py

// What a step of a bound stream needs. References are owned.
struct PlainStep {
  const DLPackExchangeAPI* exchange;
  Engine engine;
  void* stream;
  PyObject* owner;  // the bound stream lives as long
  PyObject* books;  // a cache/positions.py
  PyObject* torch;
  PyObject* tensor;  // torch.Tensor
  int64_t rows, channels, layers;
  DLDataType dtype;
};

constexpr char kCapsule[] = "futurefill_kernels.plain_step";

// Whether a call or attribute gave False; an error is no False.
bool is_false(PyObject* found) {
  if (!found) PyErr_Clear();
  Py_XDECREF(found);
  return found == Py_False;
}

// The first value of a contiguous (rows, channels) tensor of the stream's dtype on the CPU that
// wants no gradient and is not lazily negated, which its memory would not show; else null.
char* values_of(const PlainStep& s, PyObject* x) {
  if (reinterpret_cast<PyObject*>(Py_TYPE(x)) != s.tensor) return nullptr;
  DLTensor t;
  if (s.exchange->dltensor_from_py_object_no_sync(x, &t)) {
    PyErr_Clear();
    return nullptr;
  }
  if (t.device.device_type != kDLCPU || t.ndim != 2 || t.shape[0] != s.rows ||
      t.shape[1] != s.channels || (s.channels > 1 && t.strides[1] != 1) ||
      (s.rows > 1 && t.strides[0] != s.channels) || t.dtype.code != s.dtype.code ||
      t.dtype.bits != s.dtype.bits || t.dtype.lanes != s.dtype.lanes) {
    return nullptr;
  }
  if (!is_false(PyObject_GetAttr(x, requires_grad))) return nullptr;
  if (!is_false(PyObject_CallMethodObjArgs(x, is_neg, nullptr))) return nullptr;
  return static_cast<char*>(t.data) + t.byte_offset;
}

bool integer_of(PyObject* owner, PyObject* name, long long& value) {
  PyObject* found = PyObject_GetAttr(owner, name);
  if (!found) return false;
  value = PyLong_AsLongLong(found);
  Py_DECREF(found);
  return value != -1 || !PyErr_Occurred();
}

bool set_integer(PyObject* owner, PyObject* name, long long value) {
  PyObject* number = PyLong_FromLongLong(value);
  if (!number) return false;
  const int failed = PyObject_SetAttr(owner, name, number);
  Py_DECREF(number);
  return !failed;
}

// Whether memory that a step writes lies across what it reads: the very same memory is right, as
// every value is read before its place is written.
bool across(const char* y, const char* x, int64_t bytes) {
  return x && y != x && y < x + bytes && x < y + bytes;
}

// step(u, layer, pre, post, rows, out): the output, or None where the call is not the common one
// and nothing has happened.
PyObject* step(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  const PlainStep& s = *static_cast<PlainStep*>(PyCapsule_GetPointer(self, kCapsule));
  if (count != 6) {
    PyErr_SetString(PyExc_TypeError, "expected u, layer, pre, post, rows and out");
    return nullptr;
  }
  PyObject *u = args[0], *pre = args[2], *post = args[3], *rows = args[4], *out = args[5];
  if (rows != Py_None || !PyLong_Check(args[1])) Py_RETURN_NONE;
  long long left, expected;
  PyObject* is_open = PyObject_GetAttr(s.books, open);
  if (!is_open) return nullptr;
  Py_DECREF(is_open);
  if (!integer_of(s.books, plain, left) || !integer_of(s.books, layer, expected)) return nullptr;
  const long long at = PyLong_AsLongLong(args[1]);
  if (at == -1 && PyErr_Occurred()) PyErr_Clear();
  if (is_open != Py_True || left <= 0 || at != expected || at < 0 || at >= s.layers) {
    Py_RETURN_NONE;
  }
  const char *x = values_of(s, u), *before = nullptr, *after = nullptr;
  if (!x) Py_RETURN_NONE;
  if (pre != Py_None && !(before = values_of(s, pre))) Py_RETURN_NONE;
  if (post != Py_None && !(after = values_of(s, post))) Py_RETURN_NONE;
  if (out != Py_None) {
    Py_INCREF(out);
  } else {
    PyObject* allocate = PyObject_GetAttr(s.torch, empty_like);
    if (!allocate) return nullptr;
    out = PyObject_CallFunctionObjArgs(allocate, u, nullptr);
    Py_DECREF(allocate);
    if (!out) return nullptr;
  }
  char* y = values_of(s, out);
  const int64_t bytes = s.rows * s.channels * (s.dtype.bits / 8);
  if (!y || across(y, x, bytes) || across(y, before, bytes) || across(y, after, bytes)) {
    Py_DECREF(out);
    Py_RETURN_NONE;
  }
  PyThreadState* state = PyEval_SaveThread();
  const char* error = s.engine(s.stream, x, before, after, y, nullptr, s.rows, at);
  PyEval_RestoreThread(state);
  if (error) {
    PyErr_SetString(PyExc_RuntimeError, error);
  } else if (at + 1 < s.layers ? set_integer(s.books, layer, at + 1)
                               : (at == 0 || set_integer(s.books, layer, 0)) &&
                                     set_integer(s.books, plain, left - 1)) {
    return out;
  }
  Py_DECREF(out);
  return nullptr;
}

void destroy(PyObject* capsule) {
  auto* s = static_cast<PlainStep*>(PyCapsule_GetPointer(capsule, kCapsule));
  for (PyObject* held : {s->owner, s->books, s->torch, s->tensor}) Py_XDECREF(held);
  delete s;
}

PyMethodDef step_method = {
    "plain_step", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(step)), METH_FASTCALL,
    "plain_step(u, layer, pre, post, rows, out): the output of a step of all rows, or None where "
    "the call is not the common one and nothing has happened"};

// torch's table of functions, checked; null with an error.
const DLPackExchangeAPI* exchange_of(PyObject* tensor) {
  PyObject* capsule = PyObject_GetAttrString(tensor, "__dlpack_c_exchange_api__");
  if (!capsule) return nullptr;
  const auto* found =
      static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  Py_DECREF(capsule);  // the table is static
  if (!found) return nullptr;
  const int version = static_cast<int>(found->header.version.major);
  if (version == DLPACK_MAJOR_VERSION && found->dltensor_from_py_object_no_sync) return found;
  PyErr_Format(PyExc_RuntimeError, "expected torch's DLPack exchange API %d with views, got %d",
               DLPACK_MAJOR_VERSION, version);
  return nullptr;
}

// make(engine, stream, owner, books, torch, rows, channels, layers, like) -> plain_step. engine:
// the address of futurefill_step. stream: of the bound stream, which owner keeps. like: a tensor of
// the inputs' dtype.
PyObject* make(PyObject*, PyObject* arguments) {
  unsigned long long engine, stream;
  long long rows, channels, layers;
  PyObject *owner, *books, *torch, *like;
  if (!PyArg_ParseTuple(arguments, "KKOOOLLLO", &engine, &stream, &owner, &books, &torch, &rows,
                        &channels, &layers, &like)) {
    return nullptr;
  }
  auto* s = new PlainStep{};
  PyObject* capsule = PyCapsule_New(s, kCapsule, destroy);
  if (!capsule) return delete s, nullptr;
  s->engine = reinterpret_cast<Engine>(engine);
  s->stream = reinterpret_cast<void*>(stream);
  s->owner = Py_NewRef(owner), s->books = Py_NewRef(books), s->torch = Py_NewRef(torch);
  s->rows = rows, s->channels = channels, s->layers = layers;
  PyObject* result = nullptr;
  DLTensor t;
  if ((s->tensor = PyObject_GetAttrString(torch, "Tensor")) &&
      (s->exchange = exchange_of(s->tensor)) &&
      !s->exchange->dltensor_from_py_object_no_sync(like, &t)) {
    s->dtype = t.dtype;
    result = PyCFunction_New(&step_method, capsule);
  }
  Py_DECREF(capsule);
  return result;
}

// check(torch): an error where this torch has no exchange API that make could use.
PyObject* check(PyObject*, PyObject* torch) {
  PyObject* tensor = PyObject_GetAttrString(torch, "Tensor");
  const bool found = tensor && exchange_of(tensor);
  Py_XDECREF(tensor);
  if (!found) return nullptr;
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"make", make, METH_VARARGS, nullptr}, {"check", check, METH_O, nullptr}, {}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_plain_step", nullptr, -1, methods, {}, {}, {}, {}};

}  // namespace

PyMODINIT_FUNC PyInit__plain_step() {
  is_neg = PyUnicode_InternFromString("is_neg");
  requires_grad = PyUnicode_InternFromString("requires_grad");
  empty_like = PyUnicode_InternFromString("empty_like");
  plain = PyUnicode_InternFromString("plain");
  layer = PyUnicode_InternFromString("layer");
  open = PyUnicode_InternFromString("open");
  if (!is_neg || !requires_grad || !empty_like || !plain || !layer || !open) return nullptr;
  return PyModule_Create(&module);
}
