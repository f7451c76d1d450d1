// futurefill_kernels._plain_step: a step of all rows of a bound stream (bindings/bound_step.h),
// checks and books included, as one call from Python. Limited API of Python 3.10 and torch's stable
// C functions: one binary serves several versions of both.
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstring>
#include <initializer_list>

// What torch's stable functions lack, by the names under which every torch of the range exports it.
namespace at {
class Tensor;
class TensorBase;
namespace native {
bool is_neg(const Tensor&);
}
}  // namespace at
namespace c10 {
struct TensorImpl {
  bool requires_grad() const;
};
}  // namespace c10
PyObject* THPVariable_Wrap(const at::TensorBase&);

namespace {

using Engine = const char* (*)(void* stream, const void* u, const void* pre, const void* post,
                               void* y, const int64_t* rows, int64_t n_rows, int64_t layer);
using IsShort = bool (*)(const void* stream, int64_t layer);

PyObject *plain_name, *layer_name, *open_name;  // of the books: cache/positions.py

// What a step of a bound stream needs. References are owned.
struct PlainStep {
  Engine engine;
  IsShort is_short;
  void* stream;
  PyObject* owner;   // the bound stream lives as long
  PyObject* books;   // a cache/positions.py
  PyObject* tensor;  // torch.Tensor
  int64_t rows, channels, layers, width;
  int32_t dtype;
};

constexpr char kCapsule[] = "futurefill_kernels.plain_step";

// Bytes from a Python tensor to its handle, an at::Tensor; found by `check`.
Py_ssize_t handle_at = 0;

AtenTensorHandle handle_of(PyObject* x) {
  return reinterpret_cast<AtenTensorHandle>(reinterpret_cast<char*>(x) + handle_at);
}

bool is_neg(AtenTensorHandle x) {
  return at::native::is_neg(*reinterpret_cast<const at::Tensor*>(x));
}

bool requires_grad(AtenTensorHandle x) {
  return (*reinterpret_cast<const c10::TensorImpl* const*>(x))->requires_grad();
}

// The first value of a contiguous (rows, channels) tensor of the stream's dtype on the CPU that
// wants no gradient and is not lazily negated, which its memory would not show; else null.
char* values_of(const PlainStep& s, PyObject* object, bool grad_mode) {
  if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != s.tensor) return nullptr;
  const AtenTensorHandle x = handle_of(object);
  int32_t device, dtype;
  int64_t dim, *sizes, *strides;
  void* data;
  if (aoti_torch_get_device_type(x, &device) || device != aoti_torch_device_type_cpu() ||
      aoti_torch_get_dtype(x, &dtype) || dtype != s.dtype || aoti_torch_get_dim(x, &dim) ||
      dim != 2 || aoti_torch_get_sizes(x, &sizes) || sizes[0] != s.rows || sizes[1] != s.channels ||
      aoti_torch_get_strides(x, &strides) || (s.channels > 1 && strides[1] != 1) ||
      (s.rows > 1 && strides[0] != s.channels) || is_neg(x) || (grad_mode && requires_grad(x)) ||
      aoti_torch_get_data_ptr(x, &data)) {
    return nullptr;
  }
  return static_cast<char*>(data);
}

// A new tensor for a step's result, or null with an error.
PyObject* allocate(const PlainStep& s) {
  const int64_t sizes[2] = {s.rows, s.channels}, strides[2] = {s.channels, 1};
  AtenTensorHandle made;
  if (aoti_torch_empty_strided(2, sizes, strides, s.dtype, aoti_torch_device_type_cpu(), 0,
                               &made)) {
    return PyErr_NoMemory();
  }
  PyObject* wrapped = THPVariable_Wrap(*reinterpret_cast<const at::TensorBase*>(made));
  aoti_torch_delete_tensor_object(made);
  return wrapped;
}

// Whether memory that a step writes lies across what it reads: the very same memory is right, as
// every value is read before its place is written.
bool across(const char* y, const char* x, int64_t bytes) {
  return x && y != x && y < x + bytes && x < y + bytes;
}

// A number in the books, or -1.
long long booked(const PlainStep& s, PyObject* name) {
  PyObject* found = PyObject_GetAttr(s.books, name);
  const long long value = found ? PyLong_AsLongLong(found) : -1;
  Py_XDECREF(found);
  return value;
}

bool book(const PlainStep& s, PyObject* name, long long value) {
  PyObject* number = PyLong_FromLongLong(value);
  const bool done = number && !PyObject_SetAttr(s.books, name, number);
  Py_XDECREF(number);
  return done;
}

const char* run(const PlainStep& s, const char* u, const char* pre, const char* post, char* y,
                int64_t layer) {
  // other threads of Python can wait for what takes less than handing over to them
  if (s.is_short(s.stream, layer)) {
    return s.engine(s.stream, u, pre, post, y, nullptr, s.rows, layer);
  }
  PyThreadState* state = PyEval_SaveThread();
  const char* error = s.engine(s.stream, u, pre, post, y, nullptr, s.rows, layer);
  PyEval_RestoreThread(state);
  return error;
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
  const long long layer = PyLong_AsLongLong(args[1]), left = booked(s, plain_name);
  const bool is_open = booked(s, open_name) == 1, expected = layer == booked(s, layer_name);
  if (PyErr_Occurred()) PyErr_Clear();
  if (!is_open || !expected || left <= 0 || layer < 0 || layer >= s.layers) Py_RETURN_NONE;
  const bool grad = aoti_torch_grad_mode_is_enabled();
  const char *x = values_of(s, u, grad), *before = nullptr, *after = nullptr;
  if (!x) Py_RETURN_NONE;
  if (pre != Py_None && !(before = values_of(s, pre, grad))) Py_RETURN_NONE;
  if (post != Py_None && !(after = values_of(s, post, grad))) Py_RETURN_NONE;
  if (out != Py_None) {
    Py_INCREF(out);
  } else if (!(out = allocate(s))) {
    return nullptr;
  }
  char* y = values_of(s, out, grad);
  const int64_t bytes = s.rows * s.channels * s.width;
  if (!y || across(y, x, bytes) || across(y, before, bytes) || across(y, after, bytes)) {
    Py_DECREF(out);
    Py_RETURN_NONE;
  }
  if (const char* error = run(s, x, before, after, y, layer)) {
    Py_DECREF(out);
    PyErr_SetString(PyExc_RuntimeError, error);
    return nullptr;
  }
  const long long next = layer + 1 < s.layers ? layer + 1 : 0;
  if ((next == layer || book(s, layer_name, next)) && (next || book(s, plain_name, left - 1))) {
    return out;
  }
  Py_DECREF(out);
  return nullptr;
}

void destroy(PyObject* capsule) {
  auto* s = static_cast<PlainStep*>(PyCapsule_GetPointer(capsule, kCapsule));
  for (PyObject* held : {s->owner, s->books, s->tensor}) Py_XDECREF(held);
  delete s;
}

PyMethodDef step_method = {
    "plain_step", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(step)), METH_FASTCALL,
    "plain_step(u, layer, pre, post, rows, out): the output of a step of all rows, or None where "
    "the call is not the common one and nothing has happened"};

// make(engine, is_short, stream, owner, books, like, layers) -> plain_step. engine, is_short,
// stream: addresses; owner keeps the stream. like: (rows, channels), as the inputs are.
PyObject* make(PyObject*, PyObject* arguments) {
  unsigned long long engine, is_short, stream;
  long long layers;
  PyObject *owner, *books, *like;
  if (!PyArg_ParseTuple(arguments, "KKKOOOL", &engine, &is_short, &stream, &owner, &books, &like,
                        &layers)) {
    return nullptr;
  }
  auto* s = new PlainStep{};
  PyObject* capsule = PyCapsule_New(s, kCapsule, destroy);
  if (!capsule) return delete s, nullptr;
  s->engine = reinterpret_cast<Engine>(engine);
  s->is_short = reinterpret_cast<IsShort>(is_short);
  s->stream = reinterpret_cast<void*>(stream);
  s->owner = Py_NewRef(owner), s->books = Py_NewRef(books);
  s->tensor = Py_NewRef(reinterpret_cast<PyObject*>(Py_TYPE(like)));
  s->layers = layers;
  const AtenTensorHandle handle = handle_of(like);
  aoti_torch_get_size(handle, 0, &s->rows), aoti_torch_get_size(handle, 1, &s->channels);
  aoti_torch_get_dtype(handle, &s->dtype);
  s->width = aoti_torch_dtype_element_size(s->dtype);
  PyObject* result = PyCFunction_New(&step_method, capsule);
  Py_DECREF(capsule);
  return result;
}

// A number that an attribute of x is; false with an error.
bool number_of(PyObject* x, const char* name, unsigned long long& number) {
  PyObject* found = PyObject_GetAttrString(x, name);
  if (!found) return false;
  number = PyLong_AsUnsignedLongLong(found);
  Py_DECREF(found);
  return !PyErr_Occurred();
}

// check(plain, negated, wanted): an error where tensors of this torch are not what this file takes
// them for. Three of them: one of which nothing is asked, one that is lazily negated, and one that
// wants a gradient.
PyObject* check(PyObject*, PyObject* arguments) {
  PyObject* x[3];
  if (!PyArg_ParseTuple(arguments, "OOO", &x[0], &x[1], &x[2])) return nullptr;
  unsigned long long impl[3], size;
  for (int i = 0; i < 3; ++i) {
    if (!number_of(x[i], "_cdata", impl[i])) return nullptr;
  }
  if (!number_of(reinterpret_cast<PyObject*>(Py_TYPE(x[0])), "__basicsize__", size)) return nullptr;
  const auto holds = [&](int i, Py_ssize_t at) {
    return !std::memcmp(reinterpret_cast<char*>(x[i]) + at, &impl[i], sizeof(void*));
  };
  const Py_ssize_t end = static_cast<Py_ssize_t>(size - sizeof(void*));
  for (handle_at = sizeof(PyObject); handle_at <= end; handle_at += sizeof(void*)) {
    if (!holds(0, handle_at) || !holds(1, handle_at) || !holds(2, handle_at)) continue;
    bool right = true;
    for (int i = 0; i < 3; ++i) {
      const AtenTensorHandle handle = handle_of(x[i]);
      right &= is_neg(handle) == (i == 1) && requires_grad(handle) == (i == 2);
    }
    if (right) Py_RETURN_NONE;
  }
  PyErr_SetString(PyExc_RuntimeError, "tensors are not laid out as expected");
  return nullptr;
}

PyMethodDef methods[] = {
    {"make", make, METH_VARARGS, nullptr}, {"check", check, METH_VARARGS, nullptr}, {}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_plain_step", nullptr, -1, methods, {}, {}, {}, {}};

}  // namespace

PyMODINIT_FUNC PyInit__plain_step() {
  plain_name = PyUnicode_InternFromString("plain");
  layer_name = PyUnicode_InternFromString("layer");
  open_name = PyUnicode_InternFromString("open");
  return plain_name && layer_name && open_name ? PyModule_Create(&module) : nullptr;
}
