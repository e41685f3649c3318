// The matrix products of attention, on small panels that stay in the cache.
//
// c = a b, where the numbers that are summed over lie in 32-bit words: one float, or two bf16.
// a [rows, words]; b [words, kColumns]; c [rows, kColumns].

#pragma once

#include <algorithm>

#include "vectors.h"

namespace {

// Rows and columns of a product for which the sums stay in registers.
constexpr int kRows = 4;
constexpr int kColumns = kLanes * kVectors;
constexpr int kCacheLine = 64;

template <class T>
constexpr int kPerWord = sizeof(uint32_t) / sizeof(T);

template <class T, int kCount>
void multiply_rows(const uint32_t* a, int a_stride, const uint32_t* b, int words, float* c,
                   int c_stride) {
  Vec sums[kCount][kVectors] = {};
  for (int w = 0; w < words; w++)
    for (int j = 0; j < kVectors; j++) {
      const Words b_words = load<Words>(b + w * kColumns + j * kLanes);
      for (int i = 0; i < kCount; i++)
        sums[i][j] = multiply_add<T>(sums[i][j], a[i * a_stride + w], b_words);
    }
  for (int i = 0; i < kCount; i++)
    for (int j = 0; j < kVectors; j++) store(c + i * c_stride + j * kLanes, sums[i][j]);
}

template <class T>
void multiply(int rows, const uint32_t* a, int a_stride, const uint32_t* b, int words, float* c,
              int c_stride) {
  for (; rows >= kRows; rows -= kRows, a += kRows * a_stride, c += kRows * c_stride)
    multiply_rows<T, kRows>(a, a_stride, b, words, c, c_stride);
  static_assert(kRows == 4);
  if (rows == 3) multiply_rows<T, 3>(a, a_stride, b, words, c, c_stride);
  if (rows == 2) multiply_rows<T, 2>(a, a_stride, b, words, c, c_stride);
  if (rows == 1) multiply_rows<T, 1>(a, a_stride, b, words, c, c_stride);
}

// Panels of keys and values of some positions, which lie scattered over pages. What is wanted soon
// after them is fetched from memory meanwhile.

// Keys, one per column; those past `count` become zeros. Their values are wanted next, and the keys
// of the next panel: `keys` holds kColumns more addresses, which need not be valid.
template <class T>
void pack_keys(const T* const* keys, int64_t to_values, int count, int words, uint32_t* b) {
  for (int column = 0; column < kColumns; column += kLanes)
    for (int first = 0; first < words; first += kLanes) {
      const int at = first * kPerWord<T>, num_words = std::min(kLanes, words - first);
      const int num_keys = std::min(kLanes, count - column);
      Words tile[kLanes];
      if (num_keys == kLanes && num_words == kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++) {
          const T* from = keys[column + i] + at;
          tile[i] = load<Words>(from);
          __builtin_prefetch(from + to_values);
          __builtin_prefetch(keys[column + i + kColumns] + at);
        }
      } else {
        memset(tile, 0, sizeof tile);
        for (int i = 0; i < num_keys; i++) memcpy(&tile[i], keys[column + i] + at, num_words * 4);
      }
      transpose(tile);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; i++)
        if (i < num_words) store(b + (first + i) * kColumns + column, tile[i]);
    }
}

// Values, one per row (float) or two (bf16), `width` numbers of each and then zeros. The keys of
// the next head are wanted next.
template <class T>
void pack_values(const T* const* keys, int64_t to_values, int64_t to_next, int count, int width,
                 uint32_t* b) {
  static const T zeros[kColumns] = {};
  T parts[kPerWord<T>][kColumns] = {};
  for (int i = 0; i < count; i += kPerWord<T>, b += kColumns) {
    const T* rows[kPerWord<T>];
    for (int j = 0; j < kPerWord<T>; j++) {
      rows[j] = i + j < count ? keys[i + j] + to_values : zeros;
      for (int at = 0; at < kColumns && i + j < count; at += kCacheLine / sizeof(T))
        __builtin_prefetch(keys[i + j] + to_next + at);
      if (width < kColumns) rows[j] = (const T*)memcpy(parts[j], rows[j], width * sizeof(T));
    }
#pragma GCC unroll 4
    for (int column = 0; column < kColumns; column += kLanes)
      if constexpr (kPerWord<T> == 1)
        store(b + column, read(rows[0] + column));
      else
        store(b + column, widen(rows[0] + column) | widen(rows[1] + column) << 16);
  }
}

}  // namespace
