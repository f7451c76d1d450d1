// Products of a few rows with weights that are packed in panels of two vectors of outputs.
#include <cstring>

#include "engine.h"
#include "scalar_types.h"
#include "simd.h"

namespace futurefill {
namespace FF_ISA {

namespace {

// Rows whose sums, two vectors each, fit the registers beside a weight and a value.
template <class S>
constexpr int kMaxRows = FF_VECTOR_BYTES == 64 ? 12 : 6;

// Panels side by side where there are few rows: enough sums to hide the latency of the
// multiply-add, and not more than there are registers for.
template <int kRows>
constexpr int kSideBySide = kRows == 1                            ? 4
                            : kRows == 2                          ? 2
                            : kRows == 3 && FF_VECTOR_BYTES == 64 ? 2
                                                                  : 1;

// The two vectors of weights of one k: one after the other, but those of bfloat16 in turns, of
// which a shift and a mask make two vectors.
template <class T>
FF_INLINE void load_weights(const T* p, Vec<Arithmetic<T>>& first, Vec<Arithmetic<T>>& second) {
  first = load_wide<Arithmetic<T>>(p);
  second = load_wide<Arithmetic<T>>(p + kLanes<Arithmetic<T>>);
}

FF_INLINE void load_weights(const BFloat16* p, Vec<float>& first, Vec<float>& second) {
  Bits both;
  std::memcpy(&both, p, sizeof both);
  first = reinterpret_cast<Vec<float>>(both << 16);
  second = reinterpret_cast<Vec<float>>(both & 0xffff0000);
}

// kRows rows times kPanels panels (K, 2, W).
template <class T, int kRows, int kPanels>
void product(const DenseParams& a, int64_t row, int64_t panel) {
  using S = Arithmetic<T>;
  using V = Vec<S>;
  constexpr int W = kLanes<S>;
  const int64_t size = a.k * 2 * W;
  const T* w = static_cast<const T*>(a.weights) + panel * size;
  const S* x = static_cast<const S*>(a.x) + row * a.x_stride;
  V sum[kPanels][kRows][2] = {};
  for (int64_t k = 0; k < a.k; ++k) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      V w0, w1;
      load_weights(w + p * size + k * 2 * W, w0, w1);
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
        const V value = broadcast(x[r * a.x_stride + k]);
        sum[p][r][0] = value * w0 + sum[p][r][0];
        sum[p][r][1] = value * w1 + sum[p][r][1];
      }
    }
  }
  for (int p = 0; p < kPanels; ++p) {
    for (int half = 0; half < 2; ++half) {
      const int64_t n = (panel + p) * 2 * W + half * W;
      for (int r = 0; r < kRows; ++r) {
        V total = sum[p][r][half];
        if (a.bias) total += load_wide<S>(static_cast<const T*>(a.bias) + n);
        S* y = static_cast<S*>(a.y) + (row + r) * a.y_stride + n;
        if (a.accumulate) total += load(y);
        store(y, total);
      }
    }
  }
}

template <class T, int kRows, int kPanels>
int64_t products(const DenseParams& a, int64_t row, int64_t panel, int64_t panel_end) {
  for (; panel + kPanels <= panel_end; panel += kPanels) product<T, kRows, kPanels>(a, row, panel);
  if constexpr (kPanels > 1) return products<T, kRows, kPanels / 2>(a, row, panel, panel_end);
  return panel;
}

// `rows` <= kRows rows of panels
template <class T, int kRows>
void by_rows(const DenseParams& a, int64_t row, int64_t rows, int64_t panel, int64_t panel_end) {
  if constexpr (kRows > 0) {
    if (rows < kRows) return by_rows<T, kRows - 1>(a, row, rows, panel, panel_end);
    products<T, kRows, kSideBySide<kRows>>(a, row, panel, panel_end);
  }
}

template <class T>
void all_rows(const DenseParams& a, int64_t panel_begin, int64_t panel_end) {
  constexpr int kMost = kMaxRows<Arithmetic<T>>;
  // few rows read several panels in turns; of many rows every panel is read once from memory
  const int64_t blocks = (a.rows + kMost - 1) / kMost, step = blocks > 1 ? 1 : panel_end;
  for (int64_t panel = panel_begin; panel < panel_end; panel += step) {
    const int64_t end = panel + step < panel_end ? panel + step : panel_end;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t row = a.rows * b / blocks, row_end = a.rows * (b + 1) / blocks;
      by_rows<T, kMost>(a, row, row_end - row, panel, end);
    }
  }
}

}  // namespace

void dense(const DenseParams& a, int64_t panel_begin, int64_t panel_end) {
  with_type(a.type, [&](auto type) { all_rows<decltype(type)>(a, panel_begin, panel_end); });
}

}  // namespace FF_ISA
}  // namespace futurefill
