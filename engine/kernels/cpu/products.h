// The matrix products of attention, straight from the pages (see Pages in step.h).
//
// c = a b, where the numbers that are summed over lie in 32-bit words: one float, or two bf16.
// a is [rows, words], c [rows, columns]. A number of c is the same bits whatever else is computed.

#pragma once

#include <algorithm>
#include <type_traits>

#include "step.h"
#include "vectors.h"

namespace {

// Rows and columns of a product for which the sums stay in registers.
constexpr int kRows = 4;
constexpr int kColumns = kLanes * kVectors;

// body(rows, vectors) with both as constants, for at most kCount rows.
template <int kCount = kRows, int kCountVectors = kVectors, class Body>
inline void with_constants(int rows, int vectors, const Body& body) {
  if constexpr (kCount > 1)
    if (rows < kCount) return with_constants<kCount - 1, kCountVectors>(rows, vectors, body);
  if constexpr (kCountVectors > 1)
    if (vectors < kCountVectors)
      return with_constants<kCount, kCountVectors - 1>(rows, vectors, body);
  body(std::integral_constant<int, kCount>(), std::integral_constant<int, kCountVectors>());
}

// Keys or values of kLanes positions, as lines of kLanes words.
struct Strip {
  const uint32_t* words;
  int stride;  // from line to line

  const uint32_t* line(int index) const { return words + index * stride; }
};

// Pages lie scattered in memory: strips are fetched while the ones this far before them are used.
// So many more than are used must be there; they need not be valid.
constexpr int kAhead = kVectors;

// Queries times keys, of one strip for each vector of columns.
template <class T, int kCount, int kStrips>
void score(const uint32_t* a, int words, const Strip* keys, float* c, int c_stride) {
  Vec sums[kCount][kStrips] = {};
  for (int w = 0; w < words; w++)
#pragma GCC unroll 4
    for (int j = 0; j < kStrips; j++) {
      const Words b = load<Words>(keys[j].line(w));
      __builtin_prefetch(keys[j + kAhead].line(w));
#pragma GCC unroll 4
      for (int i = 0; i < kCount; i++)
        sums[i][j] = multiply_add<T>(sums[i][j], a[i * words + w], b);
    }
#pragma GCC unroll 4
  for (int i = 0; i < kCount; i++)
#pragma GCC unroll 4
    for (int j = 0; j < kStrips; j++) store(c + i * c_stride + j * kLanes, sums[i][j]);
}

// Weights times the values of `count` positions; columns `first` on are wanted, kLanes times
// kStrips or, with kIsTail, the last few.
template <class T, int kCount, int kStrips, bool kIsTail = false>
void weigh(const uint32_t* a, int a_stride, const Strip* values, int width, int first, int count,
           float* c, int c_stride) {
  constexpr int kStripWords = kLanes / kPerWord<T>;
  Vec sums[kCount][kStrips] = {};
  const auto add = [&](int word, uint32_t mask) {
    const int at = word % kStripWords * width + first;
    const uint32_t* b = values[word / kStripWords].words + at;
    const uint32_t* ahead = values[word / kStripWords + kAhead].line(at / kLanes);
#pragma GCC unroll 4
    for (int j = 0; j < kStrips; j++) {
      Words words = {};
      if constexpr (kIsTail) memcpy(&words, b, (width - first) * sizeof *b);
      else words = load<Words>(b + j * kLanes);
      __builtin_prefetch(ahead + j * kLanes);
      if (mask != ~0u) words &= mask;
#pragma GCC unroll 4
      for (int i = 0; i < kCount; i++)
        sums[i][j] = multiply_add<T>(sums[i][j], a[i * a_stride + word], words);
    }
  };
  const int num_words = count / kPerWord<T>;
  for (int word = 0; word < num_words; word++) add(word, ~0u);
  // The last word's second half is of a position that nothing was written to yet.
  if (count % kPerWord<T>) add(num_words, 0xffff);
#pragma GCC unroll 4
  for (int i = 0; i < kCount; i++)
#pragma GCC unroll 4
    for (int j = 0; j < kStrips; j++) store(c + i * c_stride + j * kLanes, sums[i][j]);
}

}  // namespace
