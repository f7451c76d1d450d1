// Complex polynomials modulo x^n - i as a tree of x^m - c nodes (docs/algorithm.md).
//
// Splitting x^m - c by the m/4-coefficient quarters z_0..z_3 of a polynomial gives its remainders
// modulo x^(m/4) - w for the four fourth roots w of c: forward below. inverse is its inverse up to
// a factor 4 (folded into the filter spectra). A polynomial is stored as [coefficient][re, im][W].
#pragma once

#include "simd.h"
#include "twiddles.h"

namespace futurefill {
namespace FF_ISA {

// Remainders in tree order: w, -w, i w, -i w, where w = exp(2 pi i theta / 4).
template <class S>
FF_INLINE void split4(Complex<S> z[4], const Twiddle<S>& t) {
  const Complex<S> z1 = times(z[1], t.re1, t.im1);
  const Complex<S> z2 = times(z[2], t.re2, t.im2);
  const Complex<S> z3 = times(z[3], t.re3, t.im3);
  const Complex<S> even = z[0] + z2, even_neg = z[0] - z2;
  const Complex<S> odd = z1 + z3, odd_neg = z1 - z3;
  z[0] = even + odd;
  z[1] = even - odd;
  z[2] = plus_i(even_neg, odd_neg);
  z[3] = minus_i(even_neg, odd_neg);
}

template <class S>
FF_INLINE void merge4(Complex<S> z[4], const Twiddle<S>& t) {
  const Complex<S> even = z[0] + z[1], odd = z[0] - z[1];
  const Complex<S> even_neg = z[2] + z[3], odd_neg = z[2] - z[3];
  z[0] = even + even_neg;
  z[1] = times_conj(minus_i(odd, odd_neg), t.re1, t.im1);
  z[2] = times_conj(even - even_neg, t.re2, t.im2);
  z[3] = times_conj(plus_i(odd, odd_neg), t.re3, t.im3);
}

// One node of m coefficients into its four children, in place.
template <class S>
FF_INLINE void split_node(S* z, int64_t m, const Twiddle<S>& t) {
  const int64_t quarter = m / 4 * 2 * kLanes<S>;
  for (int64_t j = 0; j < quarter; j += 2 * kLanes<S>) {
    Complex<S> v[4];
#pragma GCC unroll 8
    for (int q = 0; q < 4; ++q) v[q] = load_complex(z + j + q * quarter);
    split4(v, t);
#pragma GCC unroll 8
    for (int q = 0; q < 4; ++q) store_complex(z + j + q * quarter, v[q]);
  }
}

template <class S>
FF_INLINE void merge_node(S* z, int64_t m, const Twiddle<S>& t) {
  const int64_t quarter = m / 4 * 2 * kLanes<S>;
  for (int64_t j = 0; j < quarter; j += 2 * kLanes<S>) {
    Complex<S> v[4];
#pragma GCC unroll 8
    for (int q = 0; q < 4; ++q) v[q] = load_complex(z + j + q * quarter);
    merge4(v, t);
#pragma GCC unroll 8
    for (int q = 0; q < 4; ++q) store_complex(z + j + q * quarter, v[q]);
  }
}

// sqrt(1/2): the square root of i is kHalf + i kHalf
template <class S>
inline constexpr S kHalf = S(0.70710678118654752440084436210485);

// The root x^n - i from n real coefficients, radix 1, 2, 4 or 8 so that a power of 4 remains.
// real: (n, W) -> z: (n, 2, W)
template <class S, int kRadix>
FF_INLINE void split_root(const S* real, S* z, int64_t n, const TwiddleTables<S>& tables) {
  constexpr int W = kLanes<S>;
  const int64_t part = n / kRadix;
  const Vec<S> zero{};
  for (int64_t j = 0; j < part; ++j) {
    Complex<S> v[kRadix];
    if constexpr (kRadix == 8) {
#pragma GCC unroll 8
      for (int q = 0; q < 4; ++q) {
        const Vec<S> x = load(real + (j + q * part) * W);
        const Vec<S> h = load(real + (j + (q + 4) * part) * W) * kHalf<S>;
        v[q] = {x + h, h};
        v[q + 4] = {x - h, -h};
      }
      split4(v, tables.depth[1][0]);
      split4(v + 4, tables.depth[1][1]);
    } else {
#pragma GCC unroll 8
      for (int q = 0; q < kRadix; ++q) v[q] = {load(real + (j + q * part) * W), zero};
      if constexpr (kRadix == 4) split4(v, tables.depth[0][0]);
      if constexpr (kRadix == 2) {
        const Vec<S> h = v[1].re * kHalf<S>;
        v[1] = {v[0].re - h, -h};
        v[0] = {v[0].re + h, h};
      }
    }
#pragma GCC unroll 8
    for (int q = 0; q < kRadix; ++q) store_complex(z + (j + q * part) * 2 * W, v[q]);
  }
}

// out (n, W) += imaginary parts of the polynomial at the root. z: (n, 2, W)
template <class S, int kRadix>
FF_INLINE void merge_root(const S* z, S* out, int64_t n, const TwiddleTables<S>& tables) {
  constexpr int W = kLanes<S>;
  const int64_t part = n / kRadix;
  for (int64_t j = 0; j < part; ++j) {
    Complex<S> v[kRadix];
#pragma GCC unroll 8
    for (int q = 0; q < kRadix; ++q) v[q] = load_complex(z + (j + q * part) * 2 * W);
    if constexpr (kRadix == 8) {
      merge4(v, tables.depth[1][0]);
      merge4(v + 4, tables.depth[1][1]);
#pragma GCC unroll 8
      for (int q = 0; q < 4; ++q) {
        const Complex<S> d = v[q] - v[q + 4];
        v[q].im = v[q].im + v[q + 4].im;
        v[q + 4].im = (d.im - d.re) * kHalf<S>;
      }
    }
    if constexpr (kRadix == 4) merge4(v, tables.depth[0][0]);
    if constexpr (kRadix == 2) {
      const Complex<S> d = v[0] - v[1];
      v[0].im = v[0].im + v[1].im;
      v[1].im = (d.im - d.re) * kHalf<S>;
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
