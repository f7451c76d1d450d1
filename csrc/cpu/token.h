// What a token needs besides the long convolutions, compiled per instruction set.
//
// Weights and what convolutions read and write are of one type, `type` below; the rest, S, is
// float32, or float64 for float64.
#pragma once

#include <cstdint>

namespace futurefill {

enum class Scalar : int32_t;

// y (R, N) = x (R, K) weights + bias, or added to y. Every output is summed in the order of K
// whatever the rows and threads: a row's bits do not depend on the rows beside it.
struct DenseParams {
  Scalar type;          // of weights and bias
  const void* x;        // S
  const void* weights;  // (panels, K, panel), outputs of the last panel padded
  const void* bias;     // (panels * panel,) or null
  void* y;              // S, rows hold panels * panel values
  int64_t x_stride, y_stride, rows, k;
  bool accumulate;
};

// One row: x behind the last inputs, oldest first; y = sum_s weight[s] x_{t-s}.
struct ShortConvParams {
  Scalar type;         // of y, inputs and weight
  const void* x;       // (C,) of S
  void* y;             // `projections` pieces of C / projections values
  void* inputs;        // (taps, C)
  const void* weight;  // (taps, C)
  int64_t channels, taps, projections;
  int64_t y_stride;  // values between the pieces
};

struct TokenEngine {
  int panel32, panel64;  // outputs per panel, for S float32 and float64
  void (*dense)(const DenseParams&, int64_t panel_begin, int64_t panel_end);
  // one row of S: y = x / sqrt(mean(x^2) + eps) * scale, scale of `type`
  void (*rms_norm)(Scalar type, const void* x, void* y, const void* scale, int64_t n, double eps);
  void (*short_conv)(const ShortConvParams&);
  // one row of S: y = silu(x) * up, or gelu with tanh
  void (*gate)(Scalar type, const void* x, const void* up, void* y, int64_t n, bool gelu);
  // y of S = x of `type`, or added to y
  void (*widen_row)(Scalar type, const void* x, void* y, int64_t n, bool accumulate);
  // y of `type` = x of S
  void (*narrow_row)(Scalar type, const void* x, void* y, int64_t n);
};

}  // namespace futurefill
