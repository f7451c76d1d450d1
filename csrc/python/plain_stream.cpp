// futurefill_kernels._plain_step: steps of all rows of a bound stream, checks and books included,
// as calls from Python.
#include "python/plain_stream.h"

#include "python/tensor_handle.h"

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

namespace futurefill {
namespace {

PyObject *plain_name, *layer_name, *open_name;  // of the books: cache/positions.py

constexpr char kCapsule[] = "futurefill_kernels.plain_stream";

bool is_neg(AtenTensorHandle x) {
  return at::native::is_neg(*reinterpret_cast<const at::Tensor*>(x));
}

bool requires_grad(AtenTensorHandle x) {
  return (*reinterpret_cast<const c10::TensorImpl* const*>(x))->requires_grad();
}

PyObject*& place(PyObject* object, Py_ssize_t at) {
  return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + at);
}

// The attribute of all objects of a type, its name taken from the caller: found by what a new one
// holds where it is set. False with an error.
bool find_attribute(PyObject* type, PyObject* name, Attribute& found) {
  found = {name, 0};
  unsigned long long size;
  PyObject* probe = PyObject_CallMethod(type, "__new__", "O", type);
  PyObject* mark = probe ? PyList_New(0) : nullptr;
  const bool set = mark && !PyObject_SetAttr(probe, name, mark) &&
                   number_of(PyObject_GetAttrString(type, "__basicsize__"), size);
  const auto end = set ? static_cast<Py_ssize_t>(size - sizeof(void*)) : 0;
  for (Py_ssize_t at = sizeof(PyObject); at <= end && !found.at; at += sizeof(void*)) {
    if (place(probe, at) == mark) found.at = at;
  }
  Py_XDECREF(mark);
  Py_XDECREF(probe);
  return set;
}

// A number in the books, or -1.
long long booked(const PlainStream& s, const Attribute& attribute) {
  if (attribute.at) {
    PyObject* held = place(s.books, attribute.at);
    return held ? PyLong_AsLongLong(held) : -1;
  }
  PyObject* found = PyObject_GetAttr(s.books, attribute.name);
  const long long value = found ? PyLong_AsLongLong(found) : -1;
  Py_XDECREF(found);
  return value;
}

bool book(const PlainStream& s, const Attribute& attribute, long long value) {
  PyObject* number = PyLong_FromLongLong(value);
  if (number && attribute.at) {
    PyObject*& held = place(s.books, attribute.at);
    PyObject* before = held;
    held = number;
    Py_XDECREF(before);
    return true;
  }
  const bool done = number && !PyObject_SetAttr(s.books, attribute.name, number);
  Py_XDECREF(number);
  return done;
}

}  // namespace

PlainStream& stream_of(PyObject* capsule) {
  return *static_cast<PlainStream*>(PyCapsule_GetPointer(capsule, kCapsule));
}

long long steps_left(const PlainStream& s, long long layer) {
  const long long left = booked(s, s.plain);
  const bool ready = booked(s, s.open) == 1 && layer == booked(s, s.layer);
  if (PyErr_Occurred()) PyErr_Clear();
  return ready && layer >= 0 && layer < s.layers && left > 0 ? left : 0;
}

bool book_layer(const PlainStream& s, long long layer) { return book(s, s.layer, layer); }

bool book_steps_left(const PlainStream& s, long long steps) { return book(s, s.plain, steps); }

bool Values::has_sizes(std::initializer_list<int64_t> expected) const {
  return dim == static_cast<int64_t>(expected.size()) &&
         !std::memcmp(sizes, expected.begin(), dim * sizeof(int64_t));
}

bool read_tensor(const PlainStream& s, PyObject* object, bool grad_mode, Values& values) {
  if (reinterpret_cast<PyObject*>(Py_TYPE(object)) != s.tensor) return false;
  const AtenTensorHandle x = handle_of(object);
  int32_t device, dtype;
  void* data;
  if (aoti_torch_get_device_type(x, &device) || device != aoti_torch_device_type_cpu() ||
      aoti_torch_get_dtype(x, &dtype) || dtype != s.dtype || is_neg(x) ||
      (grad_mode && requires_grad(x)) || aoti_torch_get_dim(x, &values.dim) ||
      aoti_torch_get_sizes(x, &values.sizes) || aoti_torch_get_strides(x, &values.strides) ||
      aoti_torch_get_data_ptr(x, &data)) {
    return false;
  }
  values.data = static_cast<char*>(data);
  return true;
}

PyObject* new_tensor(const PlainStream& s, std::initializer_list<int64_t> sizes, void*& data) {
  int64_t strides[3], dim = static_cast<int64_t>(sizes.size()), stride = 1;
  for (int64_t d = dim - 1; d >= 0; --d) strides[d] = stride, stride *= sizes.begin()[d];
  AtenTensorHandle made;
  if (aoti_torch_empty_strided(dim, sizes.begin(), strides, s.dtype, aoti_torch_device_type_cpu(),
                               0, &made)) {
    return PyErr_NoMemory();
  }
  aoti_torch_get_data_ptr(made, &data);
  PyObject* wrapped = THPVariable_Wrap(*reinterpret_cast<const at::TensorBase*>(made));
  aoti_torch_delete_tensor_object(made);
  return wrapped;
}

namespace {

void destroy(PyObject* capsule) {
  PlainStream* s = &stream_of(capsule);
  for (PyObject* held : {s->owner, s->books, s->tensor}) Py_XDECREF(held);
  delete s;
}

// make(addresses, stream, owner, books, like, layers) -> step, run, generate, take_back,
// kept_bytes, reorder. addresses: of the functions, as in PlainStream. stream: an address, whose
// memory owner keeps. like: (rows, channels), as the inputs are.
PyObject* make(PyObject*, PyObject* arguments) {
  unsigned long long address[7], stream;
  long long layers;
  PyObject *owner, *books, *like;
  if (!PyArg_ParseTuple(arguments, "(KKKKKKK)KOOOL", &address[0], &address[1], &address[2],
                        &address[3], &address[4], &address[5], &address[6], &stream, &owner, &books,
                        &like, &layers)) {
    return nullptr;
  }
  auto* s = new PlainStream{};
  PyObject* capsule = PyCapsule_New(s, kCapsule, destroy);
  if (!capsule) return delete s, nullptr;
  s->step = reinterpret_cast<decltype(s->step)>(address[0]);
  s->is_short = reinterpret_cast<decltype(s->is_short)>(address[1]);
  s->begin_block = reinterpret_cast<decltype(s->begin_block)>(address[2]);
  s->block = reinterpret_cast<decltype(s->block)>(address[3]);
  s->take_back = reinterpret_cast<decltype(s->take_back)>(address[4]);
  s->kept_bytes = reinterpret_cast<decltype(s->kept_bytes)>(address[5]);
  s->reorder_alike = reinterpret_cast<decltype(s->reorder_alike)>(address[6]);
  s->stream = reinterpret_cast<BoundStream*>(stream);
  s->owner = Py_NewRef(owner), s->books = Py_NewRef(books);
  auto* kind = reinterpret_cast<PyObject*>(Py_TYPE(books));
  if (!find_attribute(kind, plain_name, s->plain) || !find_attribute(kind, layer_name, s->layer) ||
      !find_attribute(kind, open_name, s->open)) {
    Py_DECREF(capsule);
    return nullptr;
  }
  s->tensor = Py_NewRef(reinterpret_cast<PyObject*>(Py_TYPE(like)));
  s->layers = layers;
  const AtenTensorHandle handle = handle_of(like);
  aoti_torch_get_size(handle, 0, &s->rows), aoti_torch_get_size(handle, 1, &s->channels);
  aoti_torch_get_dtype(handle, &s->dtype);
  s->width = aoti_torch_dtype_element_size(s->dtype);
  PyMethodDef* methods[] = {&step_method,      &run_method,        &generate_method,
                            &take_back_method, &kept_bytes_method, &reorder_method};
  PyObject* result = PyTuple_New(6);
  for (Py_ssize_t i = 0; result && i < 6; ++i) {
    PyObject* method = PyCFunction_New(methods[i], capsule);
    if (!method || PyTuple_SetItem(result, i, method)) Py_CLEAR(result);
  }
  Py_DECREF(capsule);
  return result;
}

// check(plain, negated, wanted): an error where tensors of this torch are not what this file takes
// them for. Three of them: one of which nothing is asked, one that is lazily negated, and one that
// wants a gradient.
PyObject* check(PyObject*, PyObject* arguments) {
  PyObject* x[3];
  if (!PyArg_ParseTuple(arguments, "OOO", &x[0], &x[1], &x[2])) return nullptr;
  const auto right = [&] {
    bool all = true;
    for (int i = 0; i < 3; ++i) {
      const AtenTensorHandle handle = handle_of(x[i]);
      all &= is_neg(handle) == (i == 1) && requires_grad(handle) == (i == 2);
    }
    return all;
  };
  if (!find_handle(x, 3, right)) return nullptr;
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"make", make, METH_VARARGS, nullptr}, {"check", check, METH_VARARGS, nullptr}, {}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_plain_step", nullptr, -1, methods, {}, {}, {}, {}};

}  // namespace
}  // namespace futurefill

PyMODINIT_FUNC PyInit__plain_step() {
  using namespace futurefill;
  plain_name = PyUnicode_InternFromString("plain");
  layer_name = PyUnicode_InternFromString("layer");
  open_name = PyUnicode_InternFromString("open");
  return plain_name && layer_name && open_name ? PyModule_Create(&module) : nullptr;
}
