// Vectors of float32 lanes, and how the two number formats become them and come back.
//
// GCC's and Clang's vector extensions: one text for AVX-512, AVX2, NEON and plain registers. Every
// function here gives a lane the same bits whatever is in the other lanes.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace {

// As wide as a register, and as many of them as a product keeps sums for (see products.h).
#if defined(__AVX512F__)
constexpr int kLanes = 16, kVectors = 4;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kVectors = 2;
#else
constexpr int kLanes = 4, kVectors = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));

struct bf16 {
  uint16_t bits;
};
struct half {
  uint16_t bits;
};

template <class V>
inline V load(const void* from) {
  V v;
  memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
inline void store(void* to, V v) {
  memcpy(to, &v, sizeof v);
}

inline Vec splat(float x) { return Vec{} + x; }

inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }

inline Vec read(const float* from) { return load<Vec>(from); }

inline Words widen(const bf16* from) {
#if defined(__AVX512F__)
  return (Words)_mm512_cvtepu16_epi32(load<__m256i>(from));  // GCC 12 needs telling
#else
  return __builtin_convertvector(load<Halves>(from), Words);
#endif
}

inline Vec read(const bf16* from) { return (Vec)(widen(from) << 16); }

// Infinity and NaN become large numbers where the processor has no instruction for it.
inline Vec read(const half* from) {
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtph_ps(load<__m256i>(from));
#elif defined(__F16C__)
  return (Vec)_mm256_cvtph_ps(load<__m128i>(from));
#else
  const Words bits = widen((const bf16*)from);
  const Vec magnitude = (Vec)((bits & 0x7fff) << 13) * 0x1p112f;  // the exponents' biases differ
  return (Vec)((Words)magnitude | (bits & 0x8000) << 16);
#endif
}

inline void write(float* to, Vec v) { store(to, v); }

inline void write(bf16* to, Vec v) {
#if defined(__AVX512BF16__)
  store(to, _mm512_cvtneps_pbh((__m512)v));
#else
  Words bits = (Words)v;
  Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  Words quiet = (bits >> 16) | 0x40;                            // a NaN stays one
  store(to, __builtin_convertvector(v == v ? rounded : quiet, Halves));
#endif
}

// The first `count` lanes alone; the others read as zeros.
template <class T>
inline Vec read(const T* from, int count) {
  if (count >= kLanes) return read(from);
  T part[kLanes] = {};
  memcpy(part, from, count * sizeof(T));
  return read(part);
}

template <class T>
inline void write(T* to, Vec v, int count) {
  if (count >= kLanes) return write(to, v);
  T part[kLanes];
  write(part, v);
  memcpy(to, part, count * sizeof(T));
}

// The lowest byte of each lane.
inline void write_bytes(int8_t* to, Ints v) {
#if defined(__AVX512F__)
  store(to, _mm512_cvtepi32_epi8((__m512i)v));
#else
  for (int i = 0; i < kLanes; i++) to[i] = v[i];
#endif
}

// Lanes are taken in pairs of halves, always in the same order.
inline float sum(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) v[i] += v[i + half];
  return v[0];
#endif
}

inline int32_t sum(Ints v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32((__m512i)v);
#else
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) v[i] += v[i + half];
  return v[0];
#endif
}

// Of lanes that are numbers.
inline float maximum(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++)
      if (v[i + half] > v[i]) v[i] = v[i + half];
  return v[0];
#endif
}

// e^x with a relative error of 2e-7; exactly 1 for 0. Below -86 and above 88 the result is that of
// the bound; NaN stays NaN. The polynomial is that of Moshier's Cephes library, `expf`.
inline Vec exponential(Vec x) {
  const Vec lowest = splat(-86.0f), highest = splat(88.0f);
  x = x < lowest ? lowest : x;
  x = x > highest ? highest : x;
  const Vec to_integer = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds away the fraction
  Vec n = (x * 1.44269504f + to_integer) - to_integer;
  Vec r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Vec y = splat(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  return (Vec)((Ints)y + (__builtin_convertvector(n, Ints) << 23));  // times 2^n
}

// sum + a * b in every lane, where a word is a float32 or two bf16 whose products are both added.
template <class T>
inline Vec multiply_add(Vec sum, uint32_t a, Words b) {
  const Words word = Words{} + a;
  if constexpr (std::is_same_v<T, float>) return sum + (Vec)word * (Vec)b;
#if defined(__AVX512BF16__)
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)word, (__m512bh)b);
#else
  sum = sum + (Vec)(word << 16) * (Vec)(b << 16);
  return sum + (Vec)(word & 0xffff0000) * (Vec)(b & 0xffff0000);
#endif
}

}  // namespace
