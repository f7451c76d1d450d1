// Conversion between the state's type and the input/output types, bfloat16 and float16 by their
// bits.
#pragma once

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include <cstring>

#include "engine.h"
#include "simd.h"

namespace futurefill {
namespace FF_ISA {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

FF_INLINE float bits_to_float(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

FF_INLINE uint32_t float_to_bits(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return bits;
}

FF_INLINE float widen(float x) { return x; }
FF_INLINE double widen(double x) { return x; }
FF_INLINE float widen(BFloat16 x) { return bits_to_float(uint32_t(x.bits) << 16); }

FF_INLINE float widen(Float16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16;
  const uint32_t rest = uint32_t(x.bits & 0x7fff) << 13;
  // subnormal ones as 2^-14 + x, which no mode of the processor takes for zero
  const float scaled = rest < 0x00800000
                           ? bits_to_float(rest + 0x38800000) - bits_to_float(0x38800000)
                           : bits_to_float(rest + 0x38000000);
  const uint32_t special = rest >= 0x0f800000 ? 0x7f800000 : 0;  // infinity and NaN
  return bits_to_float(sign | special | float_to_bits(scaled));
}

FF_INLINE void narrow(double x, double* out) { *out = x; }
FF_INLINE void narrow(double x, float* out) { *out = float(x); }
FF_INLINE void narrow(float x, double* out) { *out = x; }
FF_INLINE void narrow(float x, float* out) { *out = x; }

FF_INLINE void narrow(float x, BFloat16* out) {
  const uint32_t bits = float_to_bits(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest even
  out->bits = x == x ? uint16_t(rounded) : uint16_t(0x7fc0);
}

FF_INLINE void narrow(float x, Float16* out) {
  const uint32_t sign = (float_to_bits(x) >> 16) & 0x8000;
  const uint32_t magnitude = float_to_bits(x) & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00;
  } else if (magnitude >= 0x47800000) {  // 65536 and above
    half = 0x7c00;
  } else if (magnitude < 0x38800000) {  // below 2^-14: adding 0.5 rounds to the subnormal grid
    half = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000;
  } else {  // to nearest even; a carry into 65536 gives infinity
    half = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  }
  out->bits = uint16_t(sign | half);
}

FF_INLINE void narrow(double x, BFloat16* out) { narrow(float(x), out); }
FF_INLINE void narrow(double x, Float16* out) { narrow(float(x), out); }

// Of values of a type: float, or double for double.
template <class T>
struct ArithmeticOf {
  using Type = float;
};

template <>
struct ArithmeticOf<double> {
  using Type = double;
};

template <class T>
using Arithmetic = typename ArithmeticOf<T>::Type;

// run(value of the type)
template <class F>
FF_INLINE void with_type(Scalar type, const F& run) {
  switch (type) {
    case Scalar::kFloat32:
      return run(float{});
    case Scalar::kFloat64:
      return run(double{});
    case Scalar::kBFloat16:
      return run(BFloat16{});
    case Scalar::kFloat16:
      return run(Float16{});
  }
}

// W values as a vector
template <class S>
FF_INLINE Vec<S> load_wide(const S* p) {
  return load(p);
}

typedef uint32_t Bits __attribute__((vector_size(FF_VECTOR_BYTES)));

// 16 bits for every lane. Compilers make four instructions of a vector conversion that is one.
FF_INLINE Bits load_halves(const void* p) {
#if FF_VECTOR_BYTES == 64
  return reinterpret_cast<Bits>(
      _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(static_cast<const __m256i*>(p))));
#elif FF_VECTOR_BYTES == 32
  return reinterpret_cast<Bits>(
      _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
#else
  typedef uint16_t Halves __attribute__((vector_size(FF_VECTOR_BYTES / 2)));
  Halves halves;
  std::memcpy(&halves, p, sizeof halves);
  return __builtin_convertvector(halves, Bits);
#endif
}

template <class S>
FF_INLINE Vec<float> load_wide(const BFloat16* p) {
  return reinterpret_cast<Vec<float>>(load_halves(p) << 16);
}

template <class S>
FF_INLINE Vec<float> load_wide(const Float16* p) {
#if FF_VECTOR_BYTES == 64
  return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif FF_VECTOR_BYTES == 32 && defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  float lanes[kLanes<float>];
  for (int i = 0; i < kLanes<float>; ++i) lanes[i] = widen(p[i]);
  return load(lanes);
#endif
}

// A vector as W values, as `narrow` rounds them
template <class S>
FF_INLINE void store_narrow(S* p, Vec<S> v) {
  store(p, v);
}

FF_INLINE void store_narrow(BFloat16* p, Vec<float> v) {
  typedef uint16_t Halves __attribute__((vector_size(FF_VECTOR_BYTES / 2)));
  const Bits bits = reinterpret_cast<Bits>(v), nan = reinterpret_cast<Bits>(v != v);
  const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Halves halves = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), Halves);
  std::memcpy(p, &halves, sizeof halves);
}

FF_INLINE void store_narrow(Float16* p, Vec<float> v) {
#if FF_VECTOR_BYTES == 64
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtps_ph(0xffff, v, _MM_FROUND_TO_NEAREST_INT));
#elif FF_VECTOR_BYTES == 32 && defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes<float>; ++i) narrow(v[i], p + i);
#endif
}

// `count` <= W values of a tile as a vector; the other lanes are zero.
template <class S, class IO>
FF_INLINE Vec<S> load_io(const IO* p, int64_t count) {
  if constexpr (sizeof(S) == sizeof(Arithmetic<IO>)) {
    if (count == kLanes<S>) return load_wide<S>(p);
  }
  S lanes[kLanes<S>] = {};
  if (count == kLanes<S>) {
    for (int i = 0; i < kLanes<S>; ++i) lanes[i] = S(widen(p[i]));
  } else {
    for (int64_t i = 0; i < count; ++i) lanes[i] = S(widen(p[i]));
  }
  return load(lanes);
}

template <class S, class IO>
FF_INLINE void store_io(IO* p, Vec<S> v, int64_t count) {
  if constexpr (sizeof(S) == sizeof(Arithmetic<IO>)) {
    if (count == kLanes<S>) return store_narrow(p, v);
  }
  S lanes[kLanes<S>];
  store(lanes, v);
  if (count == kLanes<S>) {
    for (int i = 0; i < kLanes<S>; ++i) narrow(lanes[i], p + i);
  } else {
    for (int64_t i = 0; i < count; ++i) narrow(lanes[i], p + i);
  }
}

}  // namespace FF_ISA
}  // namespace futurefill
