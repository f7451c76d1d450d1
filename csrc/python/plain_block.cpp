// Many steps of all rows of a stream of one layer, whose plan has no slack.
#include "python/plain_stream.h"

namespace futurefill {
namespace {

constexpr int64_t kTokens = 256;  // between two looks at Ctrl-C: cache/chunk.py

// A block from token t on.
const Block* from(const PlainStream& s, const Block* x, int64_t t, Block& place) {
  if (!x) return nullptr;
  place = *x;
  place.data = static_cast<const char*>(x->data) + t * x->strides[2] * s.width;
  return &place;
}

// Tokens t .. t + count - 1 of n; without Python's lock.
const char* take_part(const PlainStream& s, const Block* u, const Block* pre, const Block* post,
                      char* y, int64_t n, int64_t t, int64_t count, Feedback feedback) {
  Block places[3], newest{y + (t ? t - 1 : 0) * s.width, {s.channels * n, n, 0}};
  PyThreadState* state = PyEval_SaveThread();
  const char* error = t ? nullptr : s.begin_block(s.stream, n);
  if (!error) {
    const bool feeds = feedback != Feedback::kNone;
    const Block* first = feeds ? (t ? &newest : u) : from(s, u, t, places[0]);
    error = s.block(s.stream, first, from(s, pre, t, places[1]), from(s, post, t, places[2]),
                    y + t * s.width, n, count, feedback);
  }
  PyEval_RestoreThread(state);
  return error;
}

// The new tensor `y` (rows, channels, n) with what steps give; null with an error.
PyObject* take(const PlainStream& s, long long left, const Block& u, const Block* pre,
               const Block* post, int64_t n, Feedback feedback) {
  void* values;
  PyObject* y = new_tensor(s, {s.rows, s.channels, n}, values);
  if (!y) return nullptr;
  const char* error = nullptr;
  bool interrupted = false;
  for (int64_t t = 0; t < n && !error && !interrupted; t += kTokens) {
    if (t) interrupted = PyErr_CheckSignals();
    if (interrupted) {
      s.take_back(s.stream);
    } else {
      const int64_t count = n - t < kTokens ? n - t : kTokens;
      error = take_part(s, &u, pre, post, static_cast<char*>(values), n, t, count, feedback);
    }
  }
  if (error) PyErr_SetString(PyExc_RuntimeError, error);
  if (!error && !interrupted && book_steps_left(s, left - n)) return y;
  Py_DECREF(y);
  return nullptr;
}

Block block_of(const Values& x) { return {x.data, {x.strides[0], x.strides[1], x.strides[2]}}; }

// run(u, pre, post): the outputs (B, D, n), or None where the call is not the common one and
// nothing has happened.
PyObject* run(PyObject* self, PyObject* arguments) {
  const PlainStream& s = stream_of(self);
  PyObject* given[3];
  if (!PyArg_ParseTuple(arguments, "OOO", &given[0], &given[1], &given[2])) return nullptr;
  const bool grad = aoti_torch_grad_mode_is_enabled();
  Values x;
  if (!read_tensor(s, given[0], grad, x) || x.dim != 3) Py_RETURN_NONE;
  const int64_t n = x.sizes[2];
  const long long left = steps_left(s, 0);
  if (n < 1 || left < n) Py_RETURN_NONE;
  Block blocks[3];
  const Block* found[3] = {};
  for (int i = 0; i < 3; ++i) {
    if (i && given[i] == Py_None) continue;
    if (!read_tensor(s, given[i], grad, x) || !x.has_sizes({s.rows, s.channels, n})) Py_RETURN_NONE;
    blocks[i] = block_of(x), found[i] = &blocks[i];
  }
  return take(s, left, blocks[0], found[1], found[2], n, Feedback::kNone);
}

// generate(u, n, rectified): the tokens (B, D, n) after u (B, D), or None as above.
PyObject* generate(PyObject* self, PyObject* arguments) {
  const PlainStream& s = stream_of(self);
  PyObject* u;
  long long n;
  int rectified;
  if (!PyArg_ParseTuple(arguments, "OLp", &u, &n, &rectified)) return nullptr;
  const long long left = steps_left(s, 0);
  Values x;
  if (n < 1 || left < n || !read_tensor(s, u, aoti_torch_grad_mode_is_enabled(), x) ||
      !x.has_sizes({s.rows, s.channels})) {
    Py_RETURN_NONE;
  }
  const Block first{x.data, {x.strides[0], x.strides[1], 0}};
  return take(s, left, first, nullptr, nullptr, n,
              rectified ? Feedback::kRectified : Feedback::kSame);
}

// take_back(): whether the newest call was one of the above, which is taken back; the books are
// left to Python.
PyObject* take_back(PyObject* self, PyObject*) {
  const PlainStream& s = stream_of(self);
  return PyBool_FromLong(s.take_back(s.stream));
}

// kept_bytes(): bytes that are kept to take tokens back.
PyObject* kept_bytes(PyObject* self, PyObject*) {
  const PlainStream& s = stream_of(self);
  return PyLong_FromLongLong(s.kept_bytes(s.stream));
}

}  // namespace

PyMethodDef run_method = {"plain_run", run, METH_VARARGS,
                          "plain_run(u, pre, post): the outputs of steps of all rows, or None "
                          "where the call is not the common one and nothing has happened"};
PyMethodDef generate_method = {"plain_generate", generate, METH_VARARGS,
                               "plain_generate(u, n, rectified): the tokens after u, or None where "
                               "the call is not the common one and nothing has happened"};
PyMethodDef take_back_method = {"take_back", take_back, METH_NOARGS,
                                "take_back(): whether the newest call was one of many steps, which "
                                "is taken back"};
PyMethodDef kept_bytes_method = {"kept_bytes", kept_bytes, METH_NOARGS,
                                 "kept_bytes(): bytes that are kept to take tokens back"};

}  // namespace futurefill
