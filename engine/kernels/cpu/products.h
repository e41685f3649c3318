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

// Keys, one per column; missing ones become zeros.
template <class T>
void pack_keys(const T* const* keys, int64_t to_values, int count, int words, uint32_t* b) {
  for (int column = 0; column < kColumns; column += kLanes)
    for (int first = 0; first < words; first += kLanes) {
      const int num_words = std::min(kLanes, words - first);
      Words tile[kLanes] = {};
      for (int i = 0; i < std::min(kLanes, count - column); i++) {
        const T* from = keys[column + i] + first * kPerWord<T>;
        __builtin_prefetch(from + to_values);
        __builtin_prefetch(keys[column + i + kColumns] + first * kPerWord<T>);
        if (num_words == kLanes) tile[i] = load<Words>(from);
        else memcpy(&tile[i], from, num_words * sizeof(uint32_t));
      }
      transpose(tile);
      for (int i = 0; i < num_words; i++) store(b + (first + i) * kColumns + column, tile[i]);
    }
}

// Values, one per row (float) or two (bf16), `width` <= kColumns numbers of each; the rest zeros.
template <class T>
void pack_values(const T* const* keys, int64_t to_values, int count, int width, uint32_t* b) {
  for (int i = 0; i < count; i += kPerWord<T>, b += kColumns)
    for (int column = 0; column < kColumns; column += kLanes) {
      const int left = std::max(0, width - column);
      Words words = (Words)read(keys[i] + to_values + column, left);
      if constexpr (kPerWord<T> == 2) {
        words >>= 16;
        if (i + 1 < count) words |= (Words)read(keys[i + 1] + to_values + column, left);
      }
      store(b + column, words);
    }
}

}  // namespace
