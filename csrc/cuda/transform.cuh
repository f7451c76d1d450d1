// Transforms modulo x^n - c in registers, unrolled: values at the roots in tree order and back.
//
// A node x^m - c splits into (x^(m/2) - s)(x^(m/2) + s), s^2 = c: a0 + s a1 and a0 - s a1, with one
// twiddle per node. Angles are in turns: c at angle a has children at a/2 and a/2 + 1/2. The way
// back works on positions instead of nodes; what is left is a twist by e^(-2 pi i a k / n).
#pragma once

#include <utility>

namespace futurefill::cuda {

struct Complex {
  float re, im;
};

template <class F, int... kIndex>
__device__ __forceinline__ void static_for_each(F f, std::integer_sequence<int, kIndex...>) {
  (f(std::integral_constant<int, kIndex>{}), ...);
}

template <int kCount, class F>
__device__ __forceinline__ void static_for(F f) {
  static_for_each(f, std::make_integer_sequence<int, kCount>{});
}

constexpr int bit_reverse(int bits, int value) {
  int result = 0;
  for (int b = 0; b < bits; ++b) result |= (value >> b & 1) << (bits - 1 - b);
  return result;
}

struct ConstantRoot {
  double re, im;
};

// e^(2 pi i num / den): Taylor series in an eighth of a turn
constexpr ConstantRoot constant_root(int num, int den) {
  const double pi = 3.14159265358979323846;
  const int turn = ((num % den) + den) % den;
  const int quadrant = (8 * turn + den) / (2 * den) % 4;
  const double turns = double(turn) / den - ((8 * turn + den) / (2 * den)) * 0.25;
  const double x = 2 * pi * turns;
  double term = 1, sine = 0, cosine = 0;
  for (int n = 0; n < 24; ++n) {
    const double signed_term = n / 2 % 2 ? -term : term;
    if (n % 2) {
      sine += signed_term;
    } else {
      cosine += signed_term;
    }
    term *= x / (n + 1);
  }
  switch (quadrant) {
    case 0:
      return {cosine, sine};
    case 1:
      return {-sine, cosine};
    case 2:
      return {-cosine, -sine};
    default:
      return {sine, -cosine};
  }
}

template <int kNum, int kDen>
struct Root {
  static constexpr float re = float(constant_root(kNum, kDen).re);
  static constexpr float im = float(constant_root(kNum, kDen).im);
};

__device__ __forceinline__ Complex multiply(Complex a, float re, float im) {
  return {fmaf(-a.im, im, a.re * re), fmaf(a.re, im, a.im * re)};
}

// a + w b and a - w b, six fused operations
__device__ __forceinline__ void butterfly(Complex& a, Complex& b, float re, float im) {
  const float sum_re = fmaf(-im, b.im, fmaf(re, b.re, a.re));
  const float sum_im = fmaf(im, b.re, fmaf(re, b.im, a.im));
  b.re = fmaf(2.f, a.re, -sum_re);
  b.im = fmaf(2.f, a.im, -sum_im);
  a = {sum_re, sum_im};
}

// w = 1
__device__ __forceinline__ void butterfly_one(Complex& a, Complex& b) {
  const Complex sum = {a.re + b.re, a.im + b.im};
  b = {a.re - b.re, a.im - b.im};
  a = sum;
}

// w = -i
__device__ __forceinline__ void butterfly_minus_i(Complex& a, Complex& b) {
  const Complex sum = {a.re + b.im, a.im - b.re};
  b = {a.re - b.im, a.im + b.re};
  a = sum;
}

// w = i
__device__ __forceinline__ void butterfly_i(Complex& a, Complex& b) {
  const Complex sum = {a.re - b.im, a.im + b.re};
  b = {a.re + b.im, a.im - b.re};
  a = sum;
}

// Residues of a real polynomial (the real parts of v) modulo the kRadix factors of x^n - i.
template <int kRadix>
__device__ __forceinline__ void forward_root(Complex* v) {
  constexpr int kLevels = log2_of(kRadix);
  if constexpr (kLevels == 0) {
    v[0].im = 0;
  } else {
#pragma unroll
    for (int r = 0; r < kRadix / 2; ++r) {
      const float a = v[r].re, b = v[r + kRadix / 2].re;
      const float im = Root<1, 8>::im * b;
      v[r] = {fmaf(Root<1, 8>::re, b, a), im};
      v[r + kRadix / 2] = {fmaf(-Root<1, 8>::re, b, a), -im};
    }
    static_for<kLevels - 1>([&](auto lower) {
      constexpr int kLevel = decltype(lower)::value + 1, kHalf = kRadix >> (kLevel + 1);
      static_for<(1 << kLevel)>([&](auto node) {
        constexpr int kNode = decltype(node)::value;
        using W = Root<1 + 4 * bit_reverse(kLevel, kNode), (8 << kLevel)>;
#pragma unroll
        for (int r = kNode * 2 * kHalf; r < kNode * 2 * kHalf + kHalf; ++r) {
          butterfly(v[r], v[r + kHalf], W::re, W::im);
        }
      });
    });
  }
}

// Residues of a complex polynomial modulo the kRadix factors of x^n - 1.
template <int kRadix>
__device__ __forceinline__ void forward_first(Complex* v) {
  static_for<log2_of(kRadix)>([&](auto level) {
    constexpr int kLevel = decltype(level)::value, kHalf = kRadix >> (kLevel + 1);
    static_for<(1 << kLevel)>([&](auto node) {
      constexpr int kNode = decltype(node)::value;
      using W = Root<bit_reverse(kLevel, kNode), (2 << kLevel)>;
#pragma unroll
      for (int r = kNode * 2 * kHalf; r < kNode * 2 * kHalf + kHalf; ++r) {
        if constexpr (kNode == 0) {
          butterfly_one(v[r], v[r + kHalf]);
        } else if constexpr (kNode == 1) {
          butterfly_i(v[r], v[r + kHalf]);
        } else {
          butterfly(v[r], v[r + kHalf], W::re, W::im);
        }
      }
    });
  });
}

// One level of either direction: `first` is the twiddle of the level's first node or position, the
// others follow by constants. kForward: nodes of the tree; else positions of a half.
template <int kRadix, int kLevel, bool kForward>
__device__ __forceinline__ void level(Complex* v, Complex first) {
  constexpr int kHalf = kForward ? kRadix >> (kLevel + 1) : 1 << kLevel;
  constexpr int kDistinct = kLevel == 0 ? 1 : 1 << (kLevel - 1);
  static_for<kDistinct>([&](auto index) {
    constexpr int kIndex = decltype(index)::value;
    constexpr int kTurn = kForward ? bit_reverse(kLevel ? kLevel - 1 : 0, kIndex) : -kIndex;
    Complex w = first;
    if constexpr (kIndex > 0) {
      using Step = Root<kTurn, (2 << kLevel)>;
      w = multiply(first, Step::re, Step::im);
    }
    if constexpr (kForward) {
#pragma unroll
      for (int r = 0; r < kHalf; ++r) {
        Complex* a = v + (kLevel ? 2 * kIndex : 0) * 2 * kHalf + r;
        butterfly(a[0], a[kHalf], w.re, w.im);
        if (kLevel) butterfly(a[2 * kHalf], a[3 * kHalf], -w.im, w.re);
      }
    } else {
#pragma unroll
      for (int r = kIndex; r < kRadix; r += 2 * kHalf) {
        butterfly(v[r], v[r + kHalf], w.re, w.im);
        if (kLevel) butterfly(v[r + kHalf / 2], v[r + kHalf / 2 + kHalf], w.im, -w.re);
      }
    }
  });
}

// Complex numbers in shared memory, real and imaginary parts apart: lanes that read the same one
// take one wavefront for each.
struct ComplexTable {
  const float* re;
  int im;  // distance to the imaginary part

  __device__ __forceinline__ Complex operator[](int at) const { return {re[at], re[im + at]}; }
  __device__ __forceinline__ ComplexTable operator+(int at) const { return {re + at, im}; }
};

// A pass with twiddles from a table: entries [level - 1][stride], the thread's own at `table`.
template <int kRadix, bool kForward>
__device__ __forceinline__ void twiddled_pass(Complex* v, ComplexTable table, int stride) {
  const Complex second = table[0];
  level<kRadix, 0, kForward>(
      v, {fmaf(second.re, second.re, -second.im * second.im), 2.f * second.re * second.im});
  static_for<log2_of(kRadix) - 1>([&](auto index) {
    constexpr int kStored = decltype(index)::value;
    level<kRadix, kStored + 1, kForward>(v, table[kStored * stride]);
  });
}

// The inverse pass at position 0: a plain transform of bit-reversed input.
template <int kRadix>
__device__ __forceinline__ void inverse_first(Complex* v) {
  static_for<log2_of(kRadix)>([&](auto l) {
    constexpr int kLevel = decltype(l)::value, kHalf = 1 << kLevel;
    static_for<kHalf>([&](auto position) {
      constexpr int kPosition = decltype(position)::value;
      using W = Root<-kPosition, 2 * kHalf>;
#pragma unroll
      for (int r = kPosition; r < kRadix; r += 2 * kHalf) {
        if constexpr (kPosition == 0) {
          butterfly_one(v[r], v[r + kHalf]);
        } else if constexpr (2 * kPosition == kHalf) {
          butterfly_minus_i(v[r], v[r + kHalf]);
        } else {
          butterfly(v[r], v[r + kHalf], W::re, W::im);
        }
      }
    });
  });
}

// Imaginary parts of the untwisted coefficients, in slot order; the real parts are left over.
template <int P>
__device__ __forceinline__ void untwist(Complex* v, Complex twist) {
  static_for<P>([&](auto index) {
    constexpr int kSlot = decltype(index)::value;
    using Step = Root<-kSlot, 4 * P>;
    const Complex t = multiply(twist, Step::re, Step::im);
    v[kSlot].im = fmaf(t.im, v[kSlot].re, t.re * v[kSlot].im);
  });
}

}  // namespace futurefill::cuda
