// Complex polynomials modulo x^n - i as a tree of x^m - c nodes (docs/algorithm.md).
//
// Splitting x^m - c = (x^(m/2) - s)(x^(m/2) + s) three times gives, of the eighths z_0..z_7 of a
// polynomial, its remainders modulo x^(m/8) - w for the eight eighth roots w of c: split8. merge8
// is its inverse up to a factor 8 (folded into the filter spectra). A polynomial is stored as
// [coefficient][re, im][W].
//
// A butterfly is four multiplications and four additions, which run on different units: that is why
// products are not folded into additions beyond the one that a complex product has.
#pragma once

#include "simd.h"
#include "twiddles.h"

namespace futurefill {
namespace FF_ISA {

// (a, b) -> (a + w b, a - w b) and (a + i w b, a - i w b)
template <class S>
FF_INLINE void split2(Complex<S>& a, Complex<S>& b, S re, S im) {
  const Complex<S> t = times(b, re, im);
  b = a - t;
  a = a + t;
}

template <class S>
FF_INLINE void split2_i(Complex<S>& a, Complex<S>& b, S re, S im) {
  const Complex<S> t = times(b, re, im);
  b = minus_i(a, t);
  a = plus_i(a, t);
}

// Their inverses up to a factor 2: (a + b, conj(w) (a - b)) and (a + b, -i conj(w) (a - b))
template <class S>
FF_INLINE void merge2(Complex<S>& a, Complex<S>& b, S re, S im) {
  const Complex<S> t = a - b;
  a = a + b;
  b = times_conj(t, re, im);
}

template <class S>
FF_INLINE void merge2_i(Complex<S>& a, Complex<S>& b, S re, S im) {
  const Complex<S> t = a - b;
  a = a + b;
  b = {t.im * re - t.re * im, -(t.re * re + t.im * im)};
}

// Remainders in tree order.
template <class S>
FF_INLINE void split8(Complex<S> z[8], const Twiddle<S>& t) {
#pragma GCC unroll 8
  for (int q = 0; q < 4; ++q) split2(z[q], z[q + 4], t.re1, t.im1);
#pragma GCC unroll 8
  for (int q = 0; q < 2; ++q) {
    split2(z[q], z[q + 2], t.re2, t.im2);
    split2_i(z[q + 4], z[q + 6], t.re2, t.im2);
  }
  split2(z[0], z[1], t.re3, t.im3);
  split2_i(z[2], z[3], t.re3, t.im3);
  split2(z[4], z[5], t.re4, t.im4);
  split2_i(z[6], z[7], t.re4, t.im4);
}

template <class S>
FF_INLINE void merge8(Complex<S> z[8], const Twiddle<S>& t) {
  merge2(z[0], z[1], t.re3, t.im3);
  merge2_i(z[2], z[3], t.re3, t.im3);
  merge2(z[4], z[5], t.re4, t.im4);
  merge2_i(z[6], z[7], t.re4, t.im4);
#pragma GCC unroll 8
  for (int q = 0; q < 2; ++q) {
    merge2(z[q], z[q + 2], t.re2, t.im2);
    merge2_i(z[q + 4], z[q + 6], t.re2, t.im2);
  }
#pragma GCC unroll 8
  for (int q = 0; q < 4; ++q) merge2(z[q], z[q + 4], t.re1, t.im1);
}

// Values from one child of the root to the next: children a large power of two apart would share a
// few cache sets.
template <class S>
constexpr int64_t root_stride(int64_t m) {
  return (m < 128 ? m : m + 4) * 2 * kLanes<S>;
}

// One node of m coefficients into its eight children, in place.
template <class S>
FF_INLINE void split_node(S* z, int64_t m, const Twiddle<S>& node) {
  const Twiddle<S> t = node;
  const int64_t child = m / 8 * 2 * kLanes<S>;
  for (S* end = z + child; z < end; z += 2 * kLanes<S>) {
    Complex<S> v[8];
#pragma GCC unroll 8
    for (int q = 0; q < 8; ++q) v[q] = load_once(z + q * child);
    split8(v, t);
#pragma GCC unroll 8
    for (int q = 0; q < 8; ++q) store_complex(z + q * child, v[q]);
  }
}

template <class S>
FF_INLINE void merge_node(S* z, int64_t m, const Twiddle<S>& node) {
  const Twiddle<S> t = node;
  const int64_t child = m / 8 * 2 * kLanes<S>;
  for (S* end = z + child; z < end; z += 2 * kLanes<S>) {
    Complex<S> v[8];
#pragma GCC unroll 8
    for (int q = 0; q < 8; ++q) v[q] = load_once(z + q * child);
    merge8(v, t);
#pragma GCC unroll 8
    for (int q = 0; q < 8; ++q) store_complex(z + q * child, v[q]);
  }
}

// Columns of the root that are asked for ahead of their use, at `tail` after the last one. Eight
// cover the latency of memory; the hardware does not follow that many streams.
constexpr int64_t kAhead = 8;

template <class S, int kRadix>
FF_INLINE void prefetch_column(const S* data, const S* tail, int64_t j, int64_t part) {
  constexpr int W = kLanes<S>;
  const S* column = j + kAhead < part ? data + (j + kAhead) * W : tail + (j + kAhead - part) * W;
#pragma GCC unroll 8
  for (int q = 0; q < kRadix; ++q) __builtin_prefetch(column + q * part * W, 1);
}

// sqrt(1/2): the square root of i is kHalf + i kHalf
template <class S>
inline constexpr S kHalf = S(0.70710678118654752440084436210485);

// The root x^n - i from n real coefficients, radix 1, 2, 4 or 8 so that a power of 8 remains.
// real: (n, W) -> z: kRadix children, `child` values apart. tail: (n, W) read next, for
// prefetching.
template <class S, int kRadix>
FF_INLINE void split_root(const S* real, const S* tail, S* z, int64_t n, int64_t child,
                          const Twiddle<S>& root) {
  constexpr int W = kLanes<S>;
  constexpr int kOther = kRadix / 2;
  const int64_t part = n / kRadix;
  const Twiddle<S> t = root;
  for (int64_t j = 0; j < part; ++j) {
    Complex<S> v[kRadix];
    prefetch_column<S, kRadix>(real, tail, j, part);
    if constexpr (kRadix == 1) v[0] = {load(real + j * W), Vec<S>{}};
    // the first split of real numbers
#pragma GCC unroll 8
    for (int q = 0; q < kOther; ++q) {
      const Vec<S> x = load(real + (j + q * part) * W);
      const Vec<S> h = load(real + (j + (q + kOther) * part) * W) * kHalf<S>;
      v[q] = {x + h, h};
      v[q + kOther] = {x - h, -h};
    }
    if constexpr (kRadix >= 4) {
#pragma GCC unroll 8
      for (int q = 0; q < kOther / 2; ++q) {
        split2(v[q], v[q + kOther / 2], t.re2, t.im2);
        split2_i(v[q + kOther], v[q + kOther + kOther / 2], t.re2, t.im2);
      }
    }
    if constexpr (kRadix == 8) {
      split2(v[0], v[1], t.re3, t.im3);
      split2_i(v[2], v[3], t.re3, t.im3);
      split2(v[4], v[5], t.re4, t.im4);
      split2_i(v[6], v[7], t.re4, t.im4);
    }
#pragma GCC unroll 8
    for (int q = 0; q < kRadix; ++q) store_complex(z + q * child + j * 2 * W, v[q]);
  }
}

// out (n, W) += imaginary parts of the polynomial at the root. z, tail: as in split_root.
template <class S, int kRadix>
FF_INLINE void merge_root(const S* z, S* out, const S* tail, int64_t n, int64_t child,
                          const Twiddle<S>& root) {
  constexpr int W = kLanes<S>;
  constexpr int kOther = kRadix / 2;
  const int64_t part = n / kRadix;
  const Twiddle<S> t = root;
  for (int64_t j = 0; j < part; ++j) {
    Complex<S> v[kRadix];
    prefetch_column<S, kRadix>(out, tail, j, part);
#pragma GCC unroll 8
    for (int q = 0; q < kRadix; ++q) v[q] = load_once(z + q * child + j * 2 * W);
    if constexpr (kRadix == 8) {
      merge2(v[0], v[1], t.re3, t.im3);
      merge2_i(v[2], v[3], t.re3, t.im3);
      merge2(v[4], v[5], t.re4, t.im4);
      merge2_i(v[6], v[7], t.re4, t.im4);
    }
    if constexpr (kRadix >= 4) {
#pragma GCC unroll 8
      for (int q = 0; q < kOther / 2; ++q) {
        merge2(v[q], v[q + kOther / 2], t.re2, t.im2);
        merge2_i(v[q + kOther], v[q + kOther + kOther / 2], t.re2, t.im2);
      }
    }
    // the last merge, of which only the imaginary parts are wanted
#pragma GCC unroll 8
    for (int q = 0; q < kOther; ++q) {
      const Complex<S> d = v[q] - v[q + kOther];
      v[q].im = v[q].im + v[q + kOther].im;
      v[q + kOther].im = (d.im - d.re) * kHalf<S>;
    }
#pragma GCC unroll 8
    for (int q = 0; q < kRadix; ++q) {
      S* slot = out + (j + q * part) * W;
      store(slot, load(slot) + v[q].im);
    }
  }
}

}  // namespace FF_ISA
}  // namespace futurefill
