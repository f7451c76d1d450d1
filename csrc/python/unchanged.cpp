// futurefill_kernels._unchanged: whether dictionaries and tensors are as they were, as one call
// from Python.
#include <vector>

#include "python/tensor_handle.h"

// What torch's stable functions lack, by the name under which every torch of the range exports it.
namespace at {
class TensorBase {
 public:
  int64_t _version() const;
};
}  // namespace at

namespace futurefill {
namespace {

struct Values {
  PyObject* dict;
  std::vector<PyObject*> values;  // in the order of iteration
};

struct Size {
  PyObject* dict;
  Py_ssize_t size;
};

struct Watched {
  PyObject* tensor;
  const void* impl;
  const void* data;
  bool counted;  // nobody counts what is written to a tensor of inference mode
  int64_t version;
};

// All references are owned: no address is given to others.
struct Unchanged {
  std::vector<Values> values;
  std::vector<Size> sizes;
  std::vector<Watched> tensors;

  ~Unchanged() {
    for (Values& v : values) {
      for (PyObject* x : v.values) Py_DECREF(x);
      Py_DECREF(v.dict);
    }
    for (Size& s : sizes) Py_DECREF(s.dict);
    for (Watched& w : tensors) Py_DECREF(w.tensor);
  }
};

constexpr char kCapsule[] = "futurefill_kernels.unchanged";

// What a Python tensor stands for, where its values are, and how often they were written to; false
// where torch cannot say.
bool look(Watched& w) {
  const AtenTensorHandle x = handle_of(w.tensor);
  w.impl = impl_of(w.tensor);
  void* data;
  if (aoti_torch_get_data_ptr(x, &data)) return false;
  w.data = data;
  if (w.counted) w.version = reinterpret_cast<const at::TensorBase*>(x)->_version();
  return true;
}

bool same(const Unchanged& all) {
  for (const Size& s : all.sizes) {
    if (PyDict_Size(s.dict) != s.size) return false;
  }
  for (const Values& v : all.values) {
    if (PyDict_Size(v.dict) != static_cast<Py_ssize_t>(v.values.size())) return false;
    Py_ssize_t place = 0;
    PyObject *key, *value;
    for (PyObject* then : v.values) {
      if (!PyDict_Next(v.dict, &place, &key, &value) || value != then) return false;
    }
  }
  for (const Watched& w : all.tensors) {
    Watched now = w;
    if (!look(now) || now.impl != w.impl || now.data != w.data || now.version != w.version) {
      return false;
    }
  }
  return true;
}

PyObject* call(PyObject* self, PyObject*) {
  return PyBool_FromLong(same(*static_cast<Unchanged*>(PyCapsule_GetPointer(self, kCapsule))));
}

PyMethodDef call_method = {"unchanged", call, METH_NOARGS,
                           "unchanged(): whether everything that was given is as it was"};

void destroy(PyObject* capsule) {
  delete static_cast<Unchanged*>(PyCapsule_GetPointer(capsule, kCapsule));
}

bool add_values(Unchanged& all, PyObject* dict) {
  if (!PyDict_Check(dict)) return false;
  all.values.push_back({Py_NewRef(dict), {}});
  Py_ssize_t place = 0;
  PyObject *key, *value;
  while (PyDict_Next(dict, &place, &key, &value)) {
    all.values.back().values.push_back(Py_NewRef(value));
  }
  return true;
}

bool add_size(Unchanged& all, PyObject* dict) {
  if (!PyDict_Check(dict)) return false;
  all.sizes.push_back({Py_NewRef(dict), PyDict_Size(dict)});
  return true;
}

bool add_tensor(Unchanged& all, PyObject* tensor) {
  PyObject* inference = PyObject_CallMethod(tensor, "is_inference", nullptr);
  if (!inference) return false;
  all.tensors.push_back({Py_NewRef(tensor), nullptr, nullptr, inference == Py_False, 0});
  Py_DECREF(inference);
  return look(all.tensors.back());
}

// make(values, sizes, tensors) -> unchanged: lists of dictionaries whose values are to be the same
// objects, of dictionaries that are to have as many entries, and of tensors that are to have the
// same memory, never written to.
PyObject* make(PyObject*, PyObject* arguments) {
  PyObject* lists[3];
  if (!PyArg_ParseTuple(arguments, "O!O!O!", &PyList_Type, &lists[0], &PyList_Type, &lists[1],
                        &PyList_Type, &lists[2])) {
    return nullptr;
  }
  auto* all = new Unchanged{};
  PyObject* capsule = PyCapsule_New(all, kCapsule, destroy);
  if (!capsule) return delete all, nullptr;
  bool (*const add[])(Unchanged&, PyObject*) = {add_values, add_size, add_tensor};
  bool right = true;
  for (int kind = 0; kind < 3 && right; ++kind) {
    for (Py_ssize_t i = 0; i < PyList_Size(lists[kind]) && right; ++i) {
      right = add[kind](*all, PyList_GetItem(lists[kind], i));
    }
  }
  PyObject* result = right ? PyCFunction_New(&call_method, capsule) : nullptr;
  if (!right && !PyErr_Occurred()) {
    PyErr_SetString(PyExc_TypeError, "expected dictionaries, and tensors with memory");
  }
  Py_DECREF(capsule);
  return result;
}

// check(x, y): an error where tensors of this torch are not what this file takes them for. Two
// plain ones that were written to a different number of times.
PyObject* check(PyObject*, PyObject* arguments) {
  PyObject* x[2];
  if (!PyArg_ParseTuple(arguments, "OO", &x[0], &x[1])) return nullptr;
  unsigned long long data[2], version[2];
  for (int i = 0; i < 2; ++i) {
    if (!number_of(PyObject_CallMethod(x[i], "data_ptr", nullptr), data[i]) ||
        !number_of(PyObject_GetAttrString(x[i], "_version"), version[i])) {
      return nullptr;
    }
  }
  const auto right = [&] {
    bool all = true;
    for (int i = 0; i < 2 && all; ++i) {
      Watched w{x[i], nullptr, nullptr, true, 0};
      all = look(w) && reinterpret_cast<unsigned long long>(w.data) == data[i] &&
            static_cast<unsigned long long>(w.version) == version[i];
    }
    return all;
  };
  if (!find_handle(x, 2, right)) return nullptr;
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"make", make, METH_VARARGS, nullptr}, {"check", check, METH_VARARGS, nullptr}, {}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_unchanged", nullptr, -1, methods, {}, {}, {}, {}};

}  // namespace
}  // namespace futurefill

PyMODINIT_FUNC PyInit__unchanged() { return PyModule_Create(&futurefill::module); }
