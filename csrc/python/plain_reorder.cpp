// Rows of a stream reordered, as in a beam search.
#include <vector>

#include "python/plain_stream.h"

namespace futurefill {
namespace {

// The rows of a list of them, one for each of the stream; false where it is something else.
bool read_rows(const PlainStream& s, PyObject* list, std::vector<int64_t>& rows) {
  if (!PyList_Check(list) || PyList_Size(list) != s.rows) return false;
  for (Py_ssize_t b = 0; b < s.rows; ++b) {
    PyObject* number = PyList_GetItem(list, b);
    if (Py_TYPE(number) != &PyLong_Type) return false;
    const long long row = PyLong_AsLongLong(number);
    if (row < 0 || row >= s.rows) return PyErr_Clear(), false;
    rows.push_back(row);
  }
  return true;
}

// reorder(rows, branches, state, everything): whether row b has become what row rows[b] was; else
// nothing has happened. No token or prompt is under way. The others as futurefill_reorder_alike
// takes them: addresses, a truth.
PyObject* reorder(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  const PlainStream& s = stream_of(self);
  if (count != 4) {
    PyErr_SetString(PyExc_TypeError, "expected rows, branches, state and everything");
    return nullptr;
  }
  void *branches = PyLong_AsVoidPtr(args[1]), *state = PyLong_AsVoidPtr(args[2]);
  const int everything = PyObject_IsTrue(args[3]);
  if (PyErr_Occurred()) return nullptr;
  std::vector<int64_t> rows;
  if (!branches || !state || !read_rows(s, args[0], rows)) Py_RETURN_FALSE;
  PyThreadState* thread = PyEval_SaveThread();
  const bool done = s.reorder_alike(static_cast<Branches*>(branches), rows.data(),
                                    static_cast<const int64_t*>(state), everything);
  PyEval_RestoreThread(thread);
  return PyBool_FromLong(done);
}

}  // namespace

PyMethodDef reorder_method = {
    "plain_reorder", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(reorder)),
    METH_FASTCALL,
    "plain_reorder(rows, branches, state, everything): whether each row b has become what row "
    "rows[b] was; else nothing has happened"};

}  // namespace futurefill
