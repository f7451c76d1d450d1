// What a token needs besides the long convolutions, float32, compiled per instruction set.
#pragma once

#include <cstdint>

namespace futurefill {

// y (R, N) = x (R, K) weights + bias, or added to y.
struct DenseParams {
  const float* x;
  const float* weights;  // (panels, K, 2 W), outputs of the last panel padded
  const float* bias;     // (panels * 2 W,) or null
  float* y;              // rows hold panels * 2 W values
  int64_t x_stride, y_stride, rows, k;
  bool accumulate;
};

struct DenseEngine {
  int panel;  // outputs per panel: 2 W
  void (*dense)(const DenseParams&, int64_t panel_begin, int64_t panel_end);
  // one row: y = x / sqrt(mean(x^2) + eps) * weight
  void (*rms_norm)(const float* x, float* y, const float* weight, int64_t n, float eps);
  // one row: x behind the last inputs (taps, C), oldest first; y = sum_s weight[s] x_{t-s}
  void (*short_conv)(const float* x, float* y, float* inputs, const float* weight, int64_t channels,
                     int64_t taps);
  // one row: y = silu(x) * up, or gelu with tanh
  void (*gate)(const float* x, const float* up, float* y, int64_t n, bool gelu);
};

}  // namespace futurefill
