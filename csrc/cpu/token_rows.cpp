// What happens to one row of a token outside its products: norm, short convolution, gate, copies.
#include <cstring>

#include "engine.h"
#include "scalar_types.h"
#include "simd.h"

namespace futurefill {
namespace FF_ISA {

namespace {

// Numbers of the exponential below: 2^n is made of the exponent's bits.
template <class S>
struct Exponential;

template <>
struct Exponential<float> {
  typedef int32_t Bits __attribute__((vector_size(FF_VECTOR_BYTES)));
  static constexpr float kLowest = -87.0f;      // its exponential is still a normal number
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLog2High = 0.693359375f, kLog2Low = -2.12194440e-4f;
  static constexpr int kTerms = 8, kBias = 127, kMantissa = 23;
};

template <>
struct Exponential<double> {
  typedef int64_t Bits __attribute__((vector_size(FF_VECTOR_BYTES)));
  static constexpr double kLowest = -708.0;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLog2High = 0.693147180369123816490, kLog2Low = 1.90821492927058770e-10;
  static constexpr int kTerms = 14, kBias = 1023, kMantissa = 52;
};

// exp for x <= 0, where it cannot overflow: 2^n p(f), n + f / log(2) = x / log(2), f of at most
// log(2) / 2 in magnitude
template <class S>
FF_INLINE Vec<S> exp_negative(Vec<S> x) {
  using E = Exponential<S>;
  const Vec<S> lowest = broadcast(E::kLowest), round = broadcast(E::kRound);
  x = x > lowest ? x : lowest;
  const Vec<S> shifted = x * S(1.4426950408889634) + round;
  const Vec<S> n = shifted - round;
  const Vec<S> f = (x - n * E::kLog2High) - n * E::kLog2Low;
  Vec<S> p = broadcast(S(1));
#pragma GCC unroll 16
  for (int i = E::kTerms - 1; i > 0; --i) p = p * f * S(1.0 / i) + S(1);
  typename E::Bits exponent;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  exponent = (exponent + E::kBias) << E::kMantissa;  // the low bits of `shifted` are n
  Vec<S> power;
  std::memcpy(&power, &exponent, sizeof power);
  return p * power;
}

// x / (1 + exp(-z)), with exp of -|z| only
template <class S>
FF_INLINE Vec<S> times_sigmoid(Vec<S> x, Vec<S> z) {
  const Vec<S> zero{};
  const Vec<S> e = exp_negative<S>(z > zero ? -z : z);
  return x * (z > zero ? broadcast(S(1)) : e) / (e + S(1));
}

template <class S, bool kGelu>
FF_INLINE Vec<S> activation(Vec<S> x) {
  if constexpr (!kGelu) return times_sigmoid<S>(x, x);
  // x/2 (1 + tanh(z/2)) = x / (1 + exp(-z)), z = 2 sqrt(2/pi) (x + 0.044715 x^3)
  constexpr double kTwice = 1.5957691216057308, kCubic = kTwice * 0.044715;
  return times_sigmoid<S>(x, (x * x * S(kCubic) + S(kTwice)) * x);
}

// run(i, count) for every vector of n values
template <class S, class F>
FF_INLINE void by_vectors(int64_t n, const F& run) {
  constexpr int W = kLanes<S>;
  int64_t i = 0;
  for (; i + W <= n; i += W) run(i, int64_t{W});
  if (i < n) run(i, n - i);
}

template <class S, bool kGelu>
void gate_row(const S* x, const S* up, S* y, int64_t n) {
  by_vectors<S>(n, [=](int64_t i, int64_t count) {
    const Vec<S> gated = activation<S, kGelu>(load_io<S>(x + i, count));
    store_io<S>(y + i, gated * load_io<S>(up + i, count), count);
  });
}

template <class T>
void norm_row(const Arithmetic<T>* x, Arithmetic<T>* y, const T* scale, int64_t n, double eps) {
  using S = Arithmetic<T>;
  Vec<S> sums{};
  by_vectors<S>(n, [&](int64_t i, int64_t count) {
    const Vec<S> value = load_io<S>(x + i, count);
    sums = value * value + sums;
  });
  S sum = 0;
  for (int lane = 0; lane < kLanes<S>; ++lane) sum += sums[lane];
  const S factor = S(1 / __builtin_sqrt(double(sum / S(n)) + eps));
  by_vectors<S>(n, [=](int64_t i, int64_t count) {
    const Vec<S> value = load_io<S>(x + i, count) * factor;
    store_io<S>(y + i, value * load_io<S>(scale + i, count), count);
  });
}

// of at most a vector
template <class T>
FF_INLINE void copy_values(const T* from, T* to, int64_t count) {
  constexpr int W = kLanes<Arithmetic<T>>;
  std::memcpy(to, from, count == W ? W * sizeof(T) : count * sizeof(T));
}

template <class T>
void short_conv_row(const ShortConvParams& a) {
  using S = Arithmetic<T>;
  const int64_t width = a.channels / a.projections;
  for (int64_t p = 0; p < a.projections; ++p) {
    const S* x = static_cast<const S*>(a.x) + p * width;
    T* y = static_cast<T*>(a.y) + p * a.y_stride;
    T* oldest = static_cast<T*>(a.inputs) + p * width;
    T* newest = oldest + (a.taps - 1) * a.channels;
    const T* weight = static_cast<const T*>(a.weight) + p * width;
    by_vectors<S>(width, [=](int64_t c, int64_t count) {
      const T* tap = weight + (a.taps - 1) * a.channels + c;
      Vec<S> sum{};
      for (T* slot = oldest + c; slot < newest; slot += a.channels, tap -= a.channels) {
        const Vec<S> past = load_io<S>(slot + a.channels, count);
        copy_values(slot + a.channels, slot, count);
        sum = past * load_io<S>(tap, count) + sum;
      }
      store_io<S>(newest + c, load_io<S>(x + c, count), count);
      // as it is kept, rounded
      sum = load_io<S>(newest + c, count) * load_io<S>(tap, count) + sum;
      store_io<S>(y + c, sum, count);
    });
  }
}

}  // namespace

void rms_norm(Scalar type, const void* x, void* y, const void* scale, int64_t n, double eps) {
  with_type(type, [=](auto value) {
    using T = decltype(value);
    using S = Arithmetic<T>;
    norm_row<T>(static_cast<const S*>(x), static_cast<S*>(y), static_cast<const T*>(scale), n, eps);
  });
}

void short_conv(const ShortConvParams& a) {
  with_type(a.type, [&](auto value) { short_conv_row<decltype(value)>(a); });
}

void gate(Scalar type, const void* x, const void* up, void* y, int64_t n, bool gelu) {
  with_type(type, [=](auto value) {
    using S = Arithmetic<decltype(value)>;
    const S *from = static_cast<const S*>(x), *by = static_cast<const S*>(up);
    S* to = static_cast<S*>(y);
    gelu ? gate_row<S, true>(from, by, to, n) : gate_row<S, false>(from, by, to, n);
  });
}

void widen_row(Scalar type, const void* x, void* y, int64_t n, bool accumulate) {
  with_type(type, [=](auto value) {
    using T = decltype(value);
    using S = Arithmetic<T>;
    const T* from = static_cast<const T*>(x);
    S* to = static_cast<S*>(y);
    by_vectors<S>(n, [=](int64_t i, int64_t count) {
      Vec<S> wide = load_io<S>(from + i, count);
      if (accumulate) wide += load_io<S>(to + i, count);
      store_io<S>(to + i, wide, count);
    });
  });
}

void narrow_row(Scalar type, const void* x, void* y, int64_t n) {
  with_type(type, [=](auto value) {
    using T = decltype(value);
    using S = Arithmetic<T>;
    const S* from = static_cast<const S*>(x);
    T* to = static_cast<T*>(y);
    by_vectors<S>(n, [=](int64_t i, int64_t count) {
      store_io<S>(to + i, load_io<S>(from + i, count), count);
    });
  });
}

}  // namespace FF_ISA
}  // namespace futurefill
