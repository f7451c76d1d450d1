// token_segment: the layers of a token between two long convolutions, as a short program.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <string>

#include "bindings/tensors.h"
#include "bindings/threads.h"
#include "cpu/engine.h"
#include "infra/parallel.h"

namespace futurefill {
namespace {

// One row of `program`; futurefill_kernels/nn/token/cpu.py writes them. x, y and ring are offsets
// into scratch, weight and bias into weights; -1 where there is none.
struct Instruction {
  int64_t kind;
  int64_t x, x_stride, y, y_stride;
  int64_t weight, bias;
  int64_t k, n;
  int64_t extra;
};

enum Kind : int64_t { kEmbed, kNorm, kDense, kShortConv, kGate, kAdvance };

constexpr int64_t kFields = sizeof(Instruction) / sizeof(int64_t);

struct Token {
  const int64_t* ids;  // (B,)
  int64_t rows;
  const float* weights;
  float* scratch;
  int64_t* seen;  // (B,)
  int64_t n_weights, n_scratch;

  const float* weight(int64_t offset, int64_t count) const {
    STD_TORCH_CHECK(offset >= 0 && count >= 0 && offset + count <= n_weights,
                    "expected weights with at least ", offset + count, " values, got ", n_weights);
    return weights + offset;
  }

  // `rows` rows of `count` values
  float* buffer(int64_t offset, int64_t stride, int64_t count) const {
    const int64_t end = offset + (rows - 1) * stride + count;
    STD_TORCH_CHECK(offset >= 0 && stride >= 0 && count >= 0 && end <= n_scratch,
                    "expected scratch with at least ", end, " values, got ", n_scratch);
    return scratch + offset;
  }
};

void embed(const Token& t, const Instruction& i) {
  const float* table = t.weight(i.weight, i.k * i.n);
  float* y = t.buffer(i.y, i.y_stride, i.n);
  for (int64_t r = 0; r < t.rows; ++r) {
    STD_TORCH_CHECK(t.ids[r] >= 0 && t.ids[r] < i.k, "expected ids in 0 .. ", i.k - 1, ", got ",
                    t.ids[r]);
  }
  for (int64_t r = 0; r < t.rows; ++r) {
    std::copy_n(table + t.ids[r] * i.n, i.n, y + r * i.y_stride);
  }
}

// weight: eps, then the scale of every channel
void norm(const Token& t, const Instruction& i) {
  const float* weight = t.weight(i.weight, i.n + 1);
  const float* x = t.buffer(i.x, i.x_stride, i.n);
  float* y = t.buffer(i.y, i.y_stride, i.n);
  for (int64_t r = 0; r < t.rows; ++r) {
    engine().dense.rms_norm(x + r * i.x_stride, y + r * i.y_stride, weight + 1, i.n, weight[0]);
  }
}

void dense(const Token& t, const Instruction& i) {
  const DenseEngine& e = engine().dense;
  const int64_t panels = (i.n + e.panel - 1) / e.panel, padded = panels * e.panel;
  DenseParams a{};
  a.weights = t.weight(i.weight, padded * i.k);
  a.bias = i.bias < 0 ? nullptr : t.weight(i.bias, padded);
  a.x = t.buffer(i.x, i.x_stride, i.k);
  a.y = t.buffer(i.y, i.y_stride, padded);
  a.x_stride = i.x_stride, a.y_stride = i.y_stride;
  a.rows = t.rows, a.k = i.k;
  a.accumulate = i.extra != 0;
  run_dense_jobs(a, panels, thread_count());
}

// x: (B, C). y: (C / n, B, n), one piece per stream. extra: the ring (B, k, C).
void short_conv(const Token& t, const Instruction& i) {
  const int64_t channels = i.x_stride, taps = i.k;
  const float* weight = t.weight(i.weight, i.bias * taps);
  const int64_t used = i.bias;  // C; x_stride may be padded
  STD_TORCH_CHECK(used <= channels && i.n >= 1 && used % i.n == 0 && taps >= 1,
                  "expected streams of equal width, got ", used, " channels in pieces of ", i.n);
  const float* x = t.buffer(i.x, channels, used);
  float* ring = t.buffer(i.extra, taps * used, taps * used);
  const int64_t piece = t.rows * i.n;
  float* y = t.buffer(i.y, i.n, used / i.n * piece - (t.rows - 1) * i.n);
  float* line = t.buffer(i.y_stride, 0, used);
  for (int64_t r = 0; r < t.rows; ++r) {
    engine().dense.short_conv(x + r * channels, line, ring + r * taps * used, weight, used, taps,
                              t.seen[r] % taps);
    for (int64_t s = 0; s < used / i.n; ++s) {
      std::copy_n(line + s * i.n, i.n, y + s * piece + r * i.n);
    }
  }
}

// x: (B, 2 n), gate then up
void gate(const Token& t, const Instruction& i) {
  const float* x = t.buffer(i.x, i.x_stride, 2 * i.n);
  float* y = t.buffer(i.y, i.y_stride, i.n);
  for (int64_t r = 0; r < t.rows; ++r) {
    const float* row = x + r * i.x_stride;
    engine().dense.gate(row, row + i.n, y + r * i.y_stride, i.n);
  }
}

void token_segment(Tensor program_, Tensor ids_, Tensor weights_, Tensor scratch_, Tensor seen_) {
  const View program("program", program_), ids("ids", ids_), weights("weights", weights_),
      scratch("scratch", scratch_), seen("seen", seen_);
  check_dim(program, 2);
  check_size(program, 1, kFields);
  check_dim(ids, 2);
  check_size(ids, 1, 1);
  for (const View* v : {&program, &ids, &seen}) check_int64(*v);
  for (const View* v : {&program, &ids, &weights, &scratch, &seen}) check_contiguous(*v);
  check_dim(weights, 1);
  check_dim(scratch, 1);
  check_dim(seen, 1);
  check_size(seen, 0, ids.sizes[0]);
  STD_TORCH_CHECK(scalar_of(weights) == Scalar::kFloat32 && scalar_of(scratch) == Scalar::kFloat32,
                  "expected weights and scratch of dtype float32");
  Token t{};
  t.ids = static_cast<const int64_t*>(ids.data);
  t.rows = ids.sizes[0];
  t.weights = static_cast<const float*>(weights.data);
  t.scratch = static_cast<float*>(scratch.data);
  t.seen = static_cast<int64_t*>(seen.data);
  t.n_weights = weights.sizes[0], t.n_scratch = scratch.sizes[0];
  const Instruction* i = static_cast<const Instruction*>(program.data);
  for (int64_t line = 0; line < program.sizes[0]; ++line, ++i) {
    switch (i->kind) {
      case kEmbed:
        embed(t, *i);
        break;
      case kNorm:
        norm(t, *i);
        break;
      case kDense:
        dense(t, *i);
        break;
      case kShortConv:
        short_conv(t, *i);
        break;
      case kGate:
        gate(t, *i);
        break;
      case kAdvance:
        for (int64_t r = 0; r < t.rows; ++r) t.seen[r] += 1;
        break;
      default:
        STD_TORCH_CHECK(false, "expected a known instruction, got ", i->kind);
    }
  }
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
