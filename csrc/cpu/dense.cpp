// The layers around the long convolutions, for a few rows of float32: products with weights packed
// in panels, norm, short convolution and gate.
#include "dense.h"

#include <cstring>

#include "simd.h"

namespace futurefill {
namespace FF_ISA {

namespace {

using V = Vec<float>;
constexpr int W = kLanes<float>;
constexpr int kMaxRows = W == 16 ? 8 : 4;  // accumulators of that many rows fit the registers

// kRows rows times one panel (K, 2, W). Few rows sum in kSplit chains, which hide the latency of
// the multiply-add.
template <int kRows>
void panel_product(const DenseParams& a, int64_t row, int64_t panel) {
  constexpr int kSplit = kRows == 1 ? 4 : kRows == 2 ? 2 : 1;
  const float* w = a.weights + panel * a.k * 2 * W;
  const float* x = a.x + row * a.x_stride;
  V sum[kSplit][kRows][2] = {};
  int64_t k = 0;
  for (; k + kSplit <= a.k; k += kSplit) {
#pragma GCC unroll 4
    for (int s = 0; s < kSplit; ++s) {
      const V w0 = load(w + (k + s) * 2 * W), w1 = load(w + (k + s) * 2 * W + W);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const V value = broadcast(x[r * a.x_stride + k + s]);
        sum[s][r][0] = value * w0 + sum[s][r][0];
        sum[s][r][1] = value * w1 + sum[s][r][1];
      }
    }
  }
  for (; k < a.k; ++k) {
    const V w0 = load(w + k * 2 * W), w1 = load(w + k * 2 * W + W);
    for (int r = 0; r < kRows; ++r) {
      const V value = broadcast(x[r * a.x_stride + k]);
      sum[0][r][0] = value * w0 + sum[0][r][0];
      sum[0][r][1] = value * w1 + sum[0][r][1];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int half = 0; half < 2; ++half) {
      const int64_t n = panel * 2 * W + half * W;
      V total = sum[0][r][half];
      for (int s = 1; s < kSplit; ++s) total += sum[s][r][half];
      if (a.bias) total += load(a.bias + n);
      float* y = a.y + (row + r) * a.y_stride + n;
      if (a.accumulate) total += load(y);
      store(y, total);
    }
  }
}

// exp for x <= 0, where it cannot overflow: 2^n p(f), n + f = x log2(e), |f| <= 1/2
FF_INLINE V exp_negative(V x) {
  typedef int32_t Bits __attribute__((vector_size(FF_VECTOR_BYTES)));
  const V floor = broadcast(-87.0f);
  x = x > floor ? x : floor;
  const V scaled = x * 1.44269504f;
  const V magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer
  const V shifted = scaled + magic;
  const V n = shifted - magic;
  // f log(2) = x - n log(2), with log(2) in two parts
  const V f = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = broadcast(1.0f / 5040);
  p = p * f + 1.0f / 720;
  p = p * f + 1.0f / 120;
  p = p * f + 1.0f / 24;
  p = p * f + 1.0f / 6;
  p = p * f + 0.5f;
  p = p * f + 1.0f;
  p = p * f + 1.0f;
  Bits exponent;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  exponent = (exponent + 127) << 23;  // the low bits of `shifted` are n
  V power;
  std::memcpy(&power, &exponent, sizeof power);
  return p * power;
}

// x / (1 + exp(-z)), with exp of -|z| only
FF_INLINE V times_sigmoid(V x, V z) {
  const V zero{};
  const V magnitude = z > zero ? z : -z;
  const V e = exp_negative(-magnitude);
  const V numerator = z > zero ? broadcast(1.0f) : e;
  return x * numerator / (e + 1.0f);
}

template <bool kGelu>
FF_INLINE V activation(V x) {
  if constexpr (!kGelu) return times_sigmoid(x, x);
  // x/2 (1 + tanh(z/2)) = x / (1 + exp(-z)), z = 2 sqrt(2/pi) (x + 0.044715 x^3)
  return times_sigmoid(x, (x * x * 0.0713548163f + 1.59576912f) * x);
}

template <bool kGelu>
void gate_row(const float* x, const float* up, float* y, int64_t n) {
  int64_t i = 0;
  for (; i + W <= n; i += W) store(y + i, activation<kGelu>(load(x + i)) * load(up + i));
  if (i == n) return;
  float a[W] = {}, b[W] = {};
  for (int64_t j = i; j < n; ++j) a[j - i] = x[j], b[j - i] = up[j];
  store(a, activation<kGelu>(load(a)) * load(b));
  for (int64_t j = i; j < n; ++j) y[j] = a[j - i];
}

}  // namespace

void dense(const DenseParams& a, int64_t panel_begin, int64_t panel_end) {
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    int64_t row = 0;
    for (; row + kMaxRows <= a.rows; row += kMaxRows) panel_product<kMaxRows>(a, row, panel);
    if (kMaxRows == 8 && row + 4 <= a.rows) panel_product<4>(a, row, panel), row += 4;
    if (row + 2 <= a.rows) panel_product<2>(a, row, panel), row += 2;
    if (row < a.rows) panel_product<1>(a, row, panel);
  }
}

void rms_norm(const float* x, float* y, const float* weight, int64_t n, float eps) {
  float sum = 0;
  V sums{};
  int64_t i = 0;
  for (; i + W <= n; i += W) sums = load(x + i) * load(x + i) + sums;
  for (int lane = 0; lane < W; ++lane) sum += sums[lane];
  for (; i < n; ++i) sum += x[i] * x[i];
  const float scale = 1 / __builtin_sqrtf(sum / float(n) + eps);
  for (i = 0; i < n; ++i) y[i] = x[i] * scale * weight[i];
}

void short_conv(const float* x, float* y, float* inputs, const float* weight, int64_t channels,
                int64_t taps) {
  for (int64_t c = 0; c < channels; ++c) y[c] = x[c] * weight[c];
  float* slot = inputs;
  for (int64_t s = taps - 1; s > 0; --s, slot += channels) {
    const float* past = slot + channels;
    const float* tap = weight + s * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const float value = past[c];
      slot[c] = value;
      y[c] += value * tap[c];
    }
  }
  for (int64_t c = 0; c < channels; ++c) slot[c] = x[c];
}

void gate(const float* x, const float* up, float* y, int64_t n, bool gelu) {
  gelu ? gate_row<true>(x, up, y, n) : gate_row<false>(x, up, y, n);
}

}  // namespace FF_ISA
}  // namespace futurefill
