// Vectors of FF_VECTOR_BYTES (set per instruction set by the build) and complex numbers of them.
//
// Plain compiler vectors: a * b + c contracts to FMA where the instruction set has it; 16 bytes are
// SSE2 on x86 and NEON on ARM. Files that
// include this are compiled once per instruction set, so they must not instantiate library
// templates: the linker could keep the copy that this machine cannot run.
#pragma once

#include <cstdint>

namespace futurefill {
namespace FF_ISA {

#define FF_INLINE inline __attribute__((always_inline))

template <class S>
struct Simd;

template <>
struct Simd<float> {
  typedef float Vec __attribute__((vector_size(FF_VECTOR_BYTES)));
  typedef float Unaligned __attribute__((vector_size(FF_VECTOR_BYTES), aligned(4), may_alias));
  typedef int32_t Index __attribute__((vector_size(FF_VECTOR_BYTES)));
  static constexpr int kLanes = FF_VECTOR_BYTES / 4;
};

template <>
struct Simd<double> {
  typedef double Vec __attribute__((vector_size(FF_VECTOR_BYTES)));
  typedef double Unaligned __attribute__((vector_size(FF_VECTOR_BYTES), aligned(8), may_alias));
  typedef int64_t Index __attribute__((vector_size(FF_VECTOR_BYTES)));
  static constexpr int kLanes = FF_VECTOR_BYTES / 8;
};

template <class S>
using Vec = typename Simd<S>::Vec;

template <class S>
inline constexpr int kLanes = Simd<S>::kLanes;

template <class S>
FF_INLINE Vec<S> load(const S* p) {
  return *reinterpret_cast<const typename Simd<S>::Unaligned*>(p);
}

template <class S>
FF_INLINE void store(S* p, Vec<S> v) {
  *reinterpret_cast<typename Simd<S>::Unaligned*>(p) = v;
}

template <class S>
FF_INLINE Vec<S> broadcast(S s) {
  return s - Vec<S>{};
}

// A filter value: its own for every lane, or one for all lanes (shared filters).
template <class S, bool kShared>
FF_INLINE Vec<S> load_filter(const S* p) {
  if constexpr (kShared) {
    return broadcast(*p);
  } else {
    return load(p);
  }
}

template <class S>
struct Complex {
  Vec<S> re, im;
};

template <class S>
FF_INLINE Complex<S> load_complex(const S* p) {
  return {load(p), load(p + kLanes<S>)};
}

// v, not read from memory again: the compiler would rather load twice than keep what two operations
// need, and loads are as scarce as multiplications.
template <class V>
FF_INLINE V once(V v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

template <class S>
FF_INLINE Complex<S> load_once(const S* p) {
  return {once(load(p)), once(load(p + kLanes<S>))};
}

template <class S>
FF_INLINE void store_complex(S* p, Complex<S> z) {
  store(p, z.re);
  store(p + kLanes<S>, z.im);
}

template <class S>
FF_INLINE Complex<S> operator+(Complex<S> a, Complex<S> b) {
  return {a.re + b.re, a.im + b.im};
}

template <class S>
FF_INLINE Complex<S> operator-(Complex<S> a, Complex<S> b) {
  return {a.re - b.re, a.im - b.im};
}

// a + i b and a - i b
template <class S>
FF_INLINE Complex<S> plus_i(Complex<S> a, Complex<S> b) {
  return {a.re - b.im, a.im + b.re};
}

template <class S>
FF_INLINE Complex<S> minus_i(Complex<S> a, Complex<S> b) {
  return {a.re + b.im, a.im - b.re};
}

// z * (re + i im) and z * (re - i im), one twiddle for all lanes
template <class S>
FF_INLINE Complex<S> times(Complex<S> z, S re, S im) {
  return {z.re * re - z.im * im, z.im * re + z.re * im};
}

template <class S>
FF_INLINE Complex<S> times_conj(Complex<S> z, S re, S im) {
  return {z.re * re + z.im * im, z.im * re - z.re * im};
}

}  // namespace FF_ISA
}  // namespace futurefill
