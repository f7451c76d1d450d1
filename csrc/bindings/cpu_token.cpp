// token_segment: the layers of a token between two long convolutions, as a short program.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "bindings/tensors.h"
#include "bindings/threads.h"
#include "cpu/engine.h"
#include "infra/parallel.h"

namespace futurefill {
namespace {

// A row of a program is the opcode and then the fields of its struct, in their order. What they
// mean is said in futurefill_kernels/nn/token/program.py and interpreter.py; a test compares the
// lists. Fields of weights are table, scale, weight and bias; buffers and other offsets are of
// scratch.
enum Opcode : int64_t { kEmbed, kNorm, kDense, kShortConv, kGate, kAdd };

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

struct ShortConv {
  Buffer x;
  int64_t y, line, inputs, weight, channels, taps, projections;
};

struct Gate {
  Buffer x, y;
  int64_t channels, gelu;
};

struct Add {
  Buffer x, y;
  int64_t channels;
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

struct Token {
  const int64_t* ids;  // (B,)
  int64_t rows;
  const float* weights;
  float* scratch;
  int64_t n_weights, n_scratch;
  bool checking;  // instructions check everything and move nothing

  const float* constant(int64_t offset, int64_t count) const {
    check_inside("weights", n_weights, offset, count);
    return weights + offset;
  }

  float* piece(int64_t offset, int64_t count) const {
    check_inside("scratch", n_scratch, offset, count);
    return scratch + offset;
  }

  // the first of `rows` rows of `count` values
  float* buffer(const Buffer& b, int64_t count) const {
    STD_TORCH_CHECK(b.stride >= 0, "expected a stride of at least 0, got ", b.stride);
    return piece(b.offset, rows == 0 ? 0 : (rows - 1) * b.stride + count);
  }

 private:
  static void check_inside(const char* name, int64_t size, int64_t offset, int64_t count) {
    STD_TORCH_CHECK(offset >= 0 && count >= 0 && offset <= size - count, "expected ", count,
                    " values from offset ", offset, " on inside ", name, ", got ", size,
                    " values in all");
  }
};

void run(const Token& t, const Embed& i) {
  const float* table = t.constant(i.table, i.vocabulary * i.channels);
  float* y = t.buffer(i.y, i.channels);
  for (int64_t r = 0; r < t.rows; ++r) {
    STD_TORCH_CHECK(t.ids[r] >= 0 && t.ids[r] < i.vocabulary, "expected ids in 0 .. ",
                    i.vocabulary - 1, ", got ", t.ids[r]);
  }
  if (t.checking) return;
  for (int64_t r = 0; r < t.rows; ++r) {
    std::copy_n(table + t.ids[r] * i.channels, i.channels, y + r * i.y.stride);
  }
}

void run(const Token& t, const Norm& i) {
  const float* scale = t.constant(i.scale, i.channels);
  const float* x = t.buffer(i.x, i.channels);
  float* y = t.buffer(i.y, i.channels);
  if (t.checking) return;
  for (int64_t r = 0; r < t.rows; ++r) {
    engine().dense.rms_norm(x + r * i.x.stride, y + r * i.y.stride, scale, i.channels,
                            static_cast<float>(i.eps));
  }
}

void run(const Token& t, const Dense& i) {
  const int64_t panel = engine().dense.panel;
  STD_TORCH_CHECK(i.panel == panel, "expected weights in panels of ", panel, " outputs (",
                  engine().name, "), got panels of ", i.panel);
  const int64_t panels = (i.outputs + panel - 1) / panel, padded = panels * panel;
  DenseParams a{};
  a.weights = t.constant(i.weight, padded * i.inputs);
  a.bias = i.bias < 0 ? nullptr : t.constant(i.bias, padded);
  a.x = t.buffer(i.x, i.inputs);
  a.y = t.buffer(i.y, padded);
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
  const int64_t width = i.channels / i.projections, history = i.taps * i.channels;
  const float* weight = t.constant(i.weight, history);
  const float* x = t.buffer(i.x, i.channels);
  float* y = t.piece(i.y, t.rows * i.channels);
  float* line = t.piece(i.line, i.channels);
  float* inputs = t.piece(i.inputs, t.rows * history);
  if (t.checking) return;
  for (int64_t r = 0; r < t.rows; ++r) {
    engine().dense.short_conv(x + r * i.x.stride, line, inputs + r * history, weight, i.channels,
                              i.taps);
    for (int64_t p = 0; p < i.projections; ++p) {
      std::copy_n(line + p * width, width, y + (p * t.rows + r) * width);
    }
  }
}

void run(const Token& t, const Gate& i) {
  const float* gate = t.buffer(i.x, 2 * i.channels);
  float* y = t.buffer(i.y, i.channels);
  if (t.checking) return;
  for (int64_t r = 0; r < t.rows; ++r) {
    const float* row = gate + r * i.x.stride;
    engine().dense.gate(row, row + i.channels, y + r * i.y.stride, i.channels, i.gelu != 0);
  }
}

void run(const Token& t, const Add& i) {
  const float* x = t.buffer(i.x, i.channels);
  float* y = t.buffer(i.y, i.channels);
  if (t.checking) return;
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t c = 0; c < i.channels; ++c) y[r * i.y.stride + c] += x[r * i.x.stride + c];
  }
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
    case kAdd:
      return run(t, read<Add>(row));
    default:
      STD_TORCH_CHECK(false, "expected an opcode in 0 .. ", int64_t{kAdd}, ", got ", *row);
  }
}

void token_segment(Tensor program_, Tensor ids_, Tensor weights_, Tensor scratch_,
                   Tensor progress_) {
  const View program("program", program_), ids("ids", ids_), weights("weights", weights_),
      scratch("scratch", scratch_), progress("progress", progress_);
  check_dim(program, 2);
  check_size(program, 1, kWidth);
  check_dim(ids, 2);
  check_size(ids, 1, 1);
  for (const View* v : {&program, &ids, &progress}) check_int64(*v);
  for (const View* v : {&program, &ids, &weights, &scratch, &progress}) check_contiguous(*v);
  for (const View* v : {&weights, &scratch, &progress}) check_dim(*v, 1);
  check_size(progress, 0, 1);
  STD_TORCH_CHECK(scalar_of(weights) == Scalar::kFloat32 && scalar_of(scratch) == Scalar::kFloat32,
                  "expected weights and scratch of dtype float32");
  Token t{};
  t.ids = static_cast<const int64_t*>(ids.data);
  t.rows = ids.sizes[0];
  t.weights = static_cast<const float*>(weights.data);
  t.scratch = static_cast<float*>(scratch.data);
  t.n_weights = weights.sizes[0], t.n_scratch = scratch.sizes[0];
  for (bool checking : {true, false}) {
    t.checking = checking;
    const int64_t* row = static_cast<const int64_t*>(program.data);
    for (int64_t n = 0; n < program.sizes[0]; ++n, row += kWidth) run(t, row);
  }
  *static_cast<int64_t*>(progress.data) += 1;
}

int64_t dense_panel() { return engine().dense.panel; }

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CPU, m) {
  m.impl("token_segment", TORCH_BOX(&token_segment));
}

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CompositeExplicitAutograd, m) {
  m.impl("dense_panel", TORCH_BOX(&dense_panel));
}

}  // namespace
}  // namespace futurefill
