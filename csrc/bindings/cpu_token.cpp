// token: the layers of one token of a model, or some of them, as a short program.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "bindings/bound_step.h"
#include "bindings/tensors.h"
#include "bindings/threads.h"
#include "cpu/engine.h"
#include "infra/parallel.h"

namespace futurefill {
namespace {

// A row of a program is the opcode and then the fields of its struct, in their order. What they
// mean is said in futurefill_kernels/nn/token/program.py and interpreter.py; a test compares the
// lists. Fields of weights are table, scale, weight and bias; those of io say so below; the rest is
// of scratch.
enum Opcode : int64_t {
  kEmbed,
  kNorm,
  kDense,
  kShortConv,
  kGate,
  kLoad,
  kStore,
  kAdd,
  kStreamStep
};

struct Buffer {
  int64_t offset, stride;
};

struct Embed {
  Buffer y;
  int64_t table, vocabulary, channels;
};

struct Norm {
  Buffer x, y;
  int64_t scale, channels;
  double eps;
};

struct Dense {
  Buffer x, y;
  int64_t weight, bias, inputs, outputs, panel, accumulate;
};

// y and inputs: io
struct ShortConv {
  Buffer x;
  int64_t y, inputs, weight, channels, taps, projections, batch;
};

struct Gate {
  Buffer x, y;
  int64_t channels, gelu;
};

// x: io
struct Load {
  Buffer x, y;
  int64_t channels;
};

// y: io
struct Store {
  Buffer x, y;
  int64_t channels;
};

// x: io
struct Add {
  Buffer x, y;
  int64_t channels;
};

// stream: of op "bind"; u, pre, post, y: io, (R, channels)
struct StreamStep {
  int64_t stream, layer, u, pre, post, y, channels;
};

constexpr size_t kWidth =
    1 + std::max({sizeof(Embed), sizeof(Norm), sizeof(Dense), sizeof(ShortConv), sizeof(Gate)}) /
            sizeof(int64_t);

template <class Instruction>
Instruction read(const int64_t* row) {
  Instruction i;
  std::memcpy(&i, row + 1, sizeof i);
  return i;
}

// A flat tensor.
struct Memory {
  const char* name;
  char* data;
  int64_t size, value_size;

  explicit Memory(const View& v)
      : name(v.name), data(static_cast<char*>(v.data)), size(v.sizes[0]) {
    const Scalar type = scalar_of(v);
    value_size = type == Scalar::kFloat64 ? 8 : type == Scalar::kFloat32 ? 4 : 2;
  }

  char* at(int64_t offset) const { return data + offset * value_size; }

  char* piece(int64_t offset, int64_t count) const {
    STD_TORCH_CHECK(offset >= 0 && count >= 0 && offset <= size - count, "expected ", count,
                    " values from offset ", offset, " on inside ", name, ", got ", size,
                    " values in all");
    return at(offset);
  }

  // the first of `rows` rows of `count` values
  char* rows(const Buffer& b, int64_t rows, int64_t count) const {
    STD_TORCH_CHECK(b.stride >= 0, "expected a stride of at least 0, got ", b.stride);
    return piece(b.offset, rows == 0 ? 0 : (rows - 1) * b.stride + count);
  }
};

struct Token {
  const int64_t* ids;    // (R,)
  const int64_t* batch;  // (R,) rows of the batch, or null: as they come
  int64_t rows;
  Scalar type;  // of weights and io
  Memory weights, scratch, io;
  bool checking;  // instructions check everything and move nothing

  int64_t batch_row(int64_t r) const { return batch ? batch[r] : r; }
};

void run(const Token& t, const Embed& i) {
  t.weights.piece(i.table, i.vocabulary * i.channels);
  t.scratch.rows(i.y, t.rows, i.channels);
  for (int64_t r = 0; r < t.rows; ++r) {
    STD_TORCH_CHECK(t.ids[r] >= 0 && t.ids[r] < i.vocabulary, "expected ids in 0 .. ",
                    i.vocabulary - 1, ", got ", t.ids[r]);
  }
  if (t.checking) return;
  for (int64_t r = 0; r < t.rows; ++r) {
    engine().token.widen_row(t.type, t.weights.at(i.table + t.ids[r] * i.channels),
                             t.scratch.at(i.y.offset + r * i.y.stride), i.channels, false);
  }
}

void run(const Token& t, const Norm& i) {
  const void* scale = t.weights.piece(i.scale, i.channels);
  t.scratch.rows(i.x, t.rows, i.channels);
  t.scratch.rows(i.y, t.rows, i.channels);
  if (t.checking) return;
  for (int64_t r = 0; r < t.rows; ++r) {
    engine().token.rms_norm(t.type, t.scratch.at(i.x.offset + r * i.x.stride),
                            t.scratch.at(i.y.offset + r * i.y.stride), scale, i.channels, i.eps);
  }
}

void run(const Token& t, const Dense& i) {
  const TokenEngine& e = engine().token;
  const int64_t panel = t.type == Scalar::kFloat64 ? e.panel64 : e.panel32;
  STD_TORCH_CHECK(i.panel == panel, "expected weights in panels of ", panel, " outputs (",
                  engine().name, "), got panels of ", i.panel);
  const int64_t panels = (i.outputs + panel - 1) / panel, padded = panels * panel;
  DenseParams a{};
  a.type = t.type;
  a.weights = t.weights.piece(i.weight, padded * i.inputs);
  a.bias = i.bias < 0 ? nullptr : t.weights.piece(i.bias, padded);
  a.x = t.scratch.rows(i.x, t.rows, i.inputs);
  a.y = t.scratch.rows(i.y, t.rows, padded);
  a.x_stride = i.x.stride, a.y_stride = i.y.stride;
  a.rows = t.rows, a.k = i.inputs;
  a.accumulate = i.accumulate != 0;
  if (t.checking) return;
  run_dense_jobs(a, panels, thread_count());
}

void run(const Token& t, const ShortConv& i) {
  STD_TORCH_CHECK(i.projections >= 1 && i.channels % i.projections == 0,
                  "expected projections of equal width, got ", i.channels, " channels for ",
                  i.projections, " projections");
  STD_TORCH_CHECK(i.taps >= 1, "expected taps >= 1, got ", i.taps);
  STD_TORCH_CHECK(t.rows <= i.batch, "expected at most ", i.batch, " rows, got ", t.rows);
  const int64_t width = i.channels / i.projections, history = i.taps * i.channels;
  ShortConvParams a{};
  a.type = t.type;
  a.weight = t.weights.piece(i.weight, history);
  a.channels = i.channels, a.taps = i.taps, a.projections = i.projections;
  a.y_stride = i.batch * width;
  t.scratch.rows(i.x, t.rows, i.channels);
  t.io.piece(i.y, i.batch * i.channels);
  t.io.piece(i.inputs, i.batch * history);
  for (int64_t r = 0; r < t.rows; ++r) {
    STD_TORCH_CHECK(t.batch_row(r) >= 0 && t.batch_row(r) < i.batch, "expected rows in 0 .. ",
                    i.batch - 1, ", got ", t.batch_row(r));
  }
  if (t.checking) return;
  for (int64_t r = 0; r < t.rows; ++r) {
    a.x = t.scratch.at(i.x.offset + r * i.x.stride);
    a.y = t.io.at(i.y + r * width);
    a.inputs = t.io.at(i.inputs + t.batch_row(r) * history);
    engine().token.short_conv(a);
  }
}

void run(const Token& t, const Gate& i) {
  t.scratch.rows(i.x, t.rows, 2 * i.channels);
  t.scratch.rows(i.y, t.rows, i.channels);
  if (t.checking) return;
  for (int64_t r = 0; r < t.rows; ++r) {
    const int64_t x = i.x.offset + r * i.x.stride;
    engine().token.gate(t.type, t.scratch.at(x), t.scratch.at(x + i.channels),
                        t.scratch.at(i.y.offset + r * i.y.stride), i.channels, i.gelu != 0);
  }
}

// from io to scratch
void widen(const Token& t, const Buffer& x, const Buffer& y, int64_t channels, bool accumulate) {
  t.io.rows(x, t.rows, channels);
  t.scratch.rows(y, t.rows, channels);
  if (t.checking) return;
  for (int64_t r = 0; r < t.rows; ++r) {
    engine().token.widen_row(t.type, t.io.at(x.offset + r * x.stride),
                             t.scratch.at(y.offset + r * y.stride), channels, accumulate);
  }
}

void run(const Token& t, const Load& i) { widen(t, i.x, i.y, i.channels, false); }

void run(const Token& t, const Add& i) { widen(t, i.x, i.y, i.channels, true); }

void run(const Token& t, const Store& i) {
  t.scratch.rows(i.x, t.rows, i.channels);
  t.io.rows(i.y, t.rows, i.channels);
  if (t.checking) return;
  for (int64_t r = 0; r < t.rows; ++r) {
    engine().token.narrow_row(t.type, t.scratch.at(i.x.offset + r * i.x.stride),
                              t.io.at(i.y.offset + r * i.y.stride), i.channels);
  }
}

void run(const Token& t, const StreamStep& i) {
  STD_TORCH_CHECK(i.stream != 0, "expected the address of a bound stream, got 0");
  const int64_t count = t.rows * i.channels;
  const void* u = t.io.piece(i.u, count);
  const void* pre = i.pre < 0 ? nullptr : t.io.piece(i.pre, count);
  const void* post = i.post < 0 ? nullptr : t.io.piece(i.post, count);
  void* y = t.io.piece(i.y, count);
  if (t.checking) return;
  auto* stream = reinterpret_cast<BoundStream*>(i.stream);
  const char* error = futurefill_step(stream, u, pre, post, y, t.batch, t.rows, i.layer);
  STD_TORCH_CHECK(!error, error);
}

void run(const Token& t, const int64_t* row) {
  switch (*row) {
    case kEmbed:
      return run(t, read<Embed>(row));
    case kNorm:
      return run(t, read<Norm>(row));
    case kDense:
      return run(t, read<Dense>(row));
    case kShortConv:
      return run(t, read<ShortConv>(row));
    case kGate:
      return run(t, read<Gate>(row));
    case kLoad:
      return run(t, read<Load>(row));
    case kStore:
      return run(t, read<Store>(row));
    case kAdd:
      return run(t, read<Add>(row));
    case kStreamStep:
      return run(t, read<StreamStep>(row));
    default:
      STD_TORCH_CHECK(false, "expected an opcode in 0 .. ", int64_t{kStreamStep}, ", got ", *row);
  }
}

void token(Tensor program_, Tensor ids_, OptionalTensor rows_, Tensor weights_, Tensor scratch_,
           Tensor io_, Tensor progress_) {
  const View program("program", program_), ids("ids", ids_), weights("weights", weights_),
      scratch("scratch", scratch_), io("io", io_), progress("progress", progress_);
  check_dim(program, 2);
  check_size(program, 1, kWidth);
  check_dim(ids, 2);
  check_size(ids, 1, 1);
  for (const View* v : {&program, &ids, &progress}) check_int64(*v);
  for (const View* v : {&program, &ids, &weights, &scratch, &io, &progress}) check_contiguous(*v);
  for (const View* v : {&weights, &scratch, &io, &progress}) check_dim(*v, 1);
  check_size(progress, 0, 1);
  const Scalar type = scalar_of(weights);
  STD_TORCH_CHECK(scalar_of(io) == type, "expected io of the dtype of weights");
  const bool wide = type == Scalar::kFloat64;
  STD_TORCH_CHECK(scalar_of(scratch) == (wide ? Scalar::kFloat64 : Scalar::kFloat32),
                  "expected scratch of dtype ", wide ? "float64" : "float32");
  Token t{static_cast<const int64_t*>(ids.data),
          nullptr,
          ids.sizes[0],
          type,
          Memory(weights),
          Memory(scratch),
          Memory(io),
          true};
  if (rows_) {
    const View rows("rows", *rows_);
    check_dim(rows, 1);
    check_int64(rows);
    check_contiguous(rows);
    check_size(rows, 0, t.rows);
    t.batch = static_cast<const int64_t*>(rows.data);
  }
  const int64_t* code = static_cast<const int64_t*>(program.data);
  for (int64_t n = 0; n < program.sizes[0]; ++n) run(t, code + n * kWidth);
  t.checking = false;
  for (int64_t n = 0; n < program.sizes[0]; ++n) {
    run(t, code + n * kWidth);
    *static_cast<int64_t*>(progress.data) += 1;
  }
}

int64_t dense_panel(bool float64) {
  return float64 ? engine().token.panel64 : engine().token.panel32;
}

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CPU, m) { m.impl("token", TORCH_BOX(&token)); }

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CompositeExplicitAutograd, m) {
  m.impl("dense_panel", TORCH_BOX(&dense_panel));
}

}  // namespace
}  // namespace futurefill
