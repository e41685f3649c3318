// Products with quantized weights: integer dot products, scaled once for every 32 of them.
//
// A weight is u * scale + minimum, u unsigned with 4 or 8 bits, scale and minimum shared by 32
// inputs of one output. A row of x is int8 * scale in the same groups. So for each group
//   sum(w x) = row.scale * (weight.scale * sum(u a) + weight.minimum * sum(a)),
// where sum(u a) is exact. Groups are added from first to last: a row's result is the same bits
// whatever rows are computed with it, and whoever computes it.

#pragma once

#include <algorithm>
#include <vector>

#include "step.h"
#include "vectors.h"

namespace {

constexpr int kGroup = 32;  // inputs that share a scale
constexpr int kTile = 32;   // outputs that are stored together

// The weights of a tile for a group. A word holds four inputs of an output; of 4-bit values eight:
// the low halves of its bytes are of the group's first 16 inputs, the high ones of the others.
template <int kBits>
struct Block {
  uint32_t values[kGroup * kBits / 32][kTile];
  half scales[kTile], minima[kTile];
};

// A matrix as [tiles][groups] blocks.
struct Matrix {
  const void* blocks;
  const float* bias;  // [tiles * kTile], or null
  int32_t num_bits, num_outputs, num_inputs;
};

// A group of a row of x, which is [groups] of them.
struct RowGroup {
  int8_t values[kGroup];
  float scale, sum;  // sum = scale * sum(values)
};

// Rows and vectors of outputs for which all sums stay in registers, and rows whose groups stay in
// the cache of a core.
#if defined(__AVX512F__)
constexpr int kMostRows = 6, kWide = 2;
#else
constexpr int kMostRows = 4, kWide = 1;
#endif
constexpr int kRowBlock = 256;
// A single row is as fast as the weights come from memory. So many bytes ahead they are asked for.
constexpr int kPrefetch = 4096;
// Weights that one thread is done with sooner than another one is woken.
constexpr int64_t kFewWeights = 1 << 16;

// ---- Dot products of unsigned and signed bytes ----------------------------------------------

// sum(u a) of a group for each lane. `add` takes four inputs a lane. Without VNNI the sums of two
// products have 16 bits: those of eight calls fit if u is below 16.
#if defined(__AVX512VNNI__)
#define OCTAVO_DOT "AVX-512 VNNI"
template <int kBits>
struct Dots {
  Words sums = {};
  void add(Words u, Words a) {
    sums = (Words)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)u, (__m512i)a);
  }
  Ints total() const { return (Ints)sums; }
};
#elif defined(__AVXVNNI__) && defined(__AVX2__)
#define OCTAVO_DOT "AVX-VNNI"
template <int kBits>
struct Dots {
  Words sums = {};
  void add(Words u, Words a) {
    sums = (Words)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)u, (__m256i)a);
  }
  Ints total() const { return (Ints)sums; }
};
#elif defined(__AVX2__)
#if defined(__AVX512BW__)
#define OCTAVO_DOT "AVX-512"
inline Words add_products(Words sums, Words u, Words a) {
  const __m512i products = _mm512_maddubs_epi16((__m512i)u, (__m512i)a);
  return (Words)_mm512_add_epi16((__m512i)sums, products);
}
inline Ints add_pairs(Words sums, int factor) {
  return (Ints)_mm512_madd_epi16((__m512i)sums, _mm512_set1_epi16(factor));
}
#else
#define OCTAVO_DOT "AVX2"
inline Words add_products(Words sums, Words u, Words a) {
  const __m256i products = _mm256_maddubs_epi16((__m256i)u, (__m256i)a);
  return (Words)_mm256_add_epi16((__m256i)sums, products);
}
inline Ints add_pairs(Words sums, int factor) {
  return (Ints)_mm256_madd_epi16((__m256i)sums, _mm256_set1_epi16(factor));
}
#endif
template <int kBits>
struct Dots {
  Words low = {}, high = {};
  void add(Words u, Words a) {
    if constexpr (kBits == 4) {
      low = add_products(low, u, a);
    } else {
      low = add_products(low, u & 0x0f0f0f0f, a);
      high = add_products(high, u >> 4 & 0x0f0f0f0f, a);
    }
  }
  Ints total() const {
    if constexpr (kBits == 4) return add_pairs(low, 1);
    return add_pairs(low, 1) + add_pairs(high, 16);
  }
};
#elif defined(__ARM_FEATURE_DOTPROD)
#define OCTAVO_DOT "NEON"
// Both factors are signed there: eight bits are taken as two times four.
inline Words add_products(Words sums, Words u, Words a) {
  return (Words)vdotq_s32((int32x4_t)sums, (int8x16_t)u, (int8x16_t)a);
}
template <int kBits>
struct Dots {
  Words low = {}, high = {};
  void add(Words u, Words a) {
    low = add_products(low, u & 0x0f0f0f0f, a);
    if constexpr (kBits == 8) high = add_products(high, u >> 4 & 0x0f0f0f0f, a);
  }
  Ints total() const { return (Ints)low + (Ints)high * 16; }
};
#else
template <int kBits>
struct Dots {
  Ints sums = {};
  void add(Words u, Words a) {
    for (int byte = 0; byte < 32; byte += 8)
      sums += (Ints)(u >> byte & 0xff) * ((Ints)(a << (24 - byte)) >> 24);
  }
  Ints total() const { return sums; }
};
#endif

// ---- Rows -----------------------------------------------------------------------------------

// To the nearest multiple of the largest magnitude / 127. A NaN makes the whole row NaN.
template <class T>
void quantize_row(const T* x, RowGroup* groups, int num_groups) {
  const Vec shift = splat(12582912.0f);  // 1.5 * 2^23: the integer is in the lowest bits then
  Vec poison = {};  // 0, or NaN
  for (RowGroup* group = groups; group < groups + num_groups; group++, x += kGroup) {
    Vec largest = {};
    for (int i = 0; i < kGroup; i += kLanes) {
      const Vec v = read(x + i);
      largest = larger(larger(v, -v), largest);
      poison += v * 0.0f;
    }
    const float limit = maximum(largest);
    const Vec to_integer = splat(limit > 0 ? 127.0f / limit : 0.0f);
    Ints total = {};
    for (int i = 0; i < kGroup; i += kLanes) {
      const Ints integers = (Ints)(read(x + i) * to_integer + shift) - (Ints)shift;
      total += integers;
      write_bytes(group->values + i, integers);
    }
    group->scale = limit / 127.0f;
    group->sum = group->scale * sum(total);
  }
  groups->scale += sum(poison);
}

// ---- Products -------------------------------------------------------------------------------

// kRows rows times kWide vectors of a tile's outputs from output `first` on, as floats to `out`
// [kRows, kWide * kLanes].
template <int kBits, int kRows>
void multiply_tile(const Block<kBits>* blocks, int first, const RowGroup* rows, int num_groups,
                   float* out) {
  Vec results[kRows][kWide] = {};
  for (int group = 0; group < num_groups; group++) {
    const Block<kBits>& block = blocks[group];
    for (size_t line = 0; line < sizeof block; line += 64)
      __builtin_prefetch((const char*)&block + kPrefetch + line);
    Dots<kBits> dots[kRows][kWide] = {};
#pragma GCC unroll 8
    for (int word = 0; word < kGroup * kBits / 32; word++) {
      Words u[8 / kBits][kWide];
#pragma GCC unroll 4
      for (int j = 0; j < kWide; j++) {
        u[0][j] = load<Words>(block.values[word] + first + j * kLanes);
        if constexpr (kBits == 4) {
          u[1][j] = u[0][j] >> 4 & 0x0f0f0f0f;
          u[0][j] &= 0x0f0f0f0f;
        }
      }
#pragma GCC unroll 2
      for (int half = 0; half < 8 / kBits; half++)
#pragma GCC unroll 16
        for (int i = 0; i < kRows; i++) {
          const RowGroup& row = rows[i * num_groups + group];
          const Words a = Words{} + load<uint32_t>(row.values + half * kGroup / 2 + word * 4);
#pragma GCC unroll 4
          for (int j = 0; j < kWide; j++) dots[i][j].add(u[half][j], a);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < kWide; j++) {
      const Vec scale = read(block.scales + first + j * kLanes);
      const Vec minimum = read(block.minima + first + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; i++) {
        const RowGroup& row = rows[i * num_groups + group];
        const Vec scaled = __builtin_convertvector(dots[i][j].total(), Vec) * row.scale;
        results[i][j] = scaled * scale + results[i][j];
        results[i][j] = minimum * row.sum + results[i][j];
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < kWide; j++) store(out + (i * kWide + j) * kLanes, results[i][j]);
}

template <int kBits>
void multiply_rows(const Block<kBits>* blocks, int first, const RowGroup* rows, int num_rows,
                   int num_groups, float* out) {
  static_assert(kMostRows <= 6);
  switch (num_rows) {
    case 6: return multiply_tile<kBits, 6>(blocks, first, rows, num_groups, out);
    case 5: return multiply_tile<kBits, 5>(blocks, first, rows, num_groups, out);
    case 4: return multiply_tile<kBits, 4>(blocks, first, rows, num_groups, out);
    case 3: return multiply_tile<kBits, 3>(blocks, first, rows, num_groups, out);
    case 2: return multiply_tile<kBits, 2>(blocks, first, rows, num_groups, out);
    default: return multiply_tile<kBits, 1>(blocks, first, rows, num_groups, out);
  }
}

// One tile's part of out [num_rows, num_outputs].
template <int kBits, class T>
void multiply_with_tile(const Matrix& m, int64_t tile, const RowGroup* rows, int num_rows, T* out) {
  const int num_groups = m.num_inputs / kGroup;
  const auto* blocks = (const Block<kBits>*)m.blocks + tile * num_groups;
  float results[kMostRows * kWide * kLanes];
  for (int row = 0; row < num_rows; row += kMostRows) {
    const int count = std::min(kMostRows, num_rows - row);
    for (int first = 0; first < kTile; first += kWide * kLanes) {
      const RowGroup* these = rows + int64_t(row) * num_groups;
      multiply_rows<kBits>(blocks, first, these, count, num_groups, results);
      for (int i = 0; i < count; i++)
        for (int j = 0; j < kWide; j++) {
          const int output = tile * kTile + first + j * kLanes;
          if (output >= m.num_outputs) continue;
          const Vec bias = m.bias == nullptr ? Vec{} : read(m.bias + output);
          write(out + int64_t(row + i) * m.num_outputs + output,
                read(results + (i * kWide + j) * kLanes) + bias, m.num_outputs - output);
        }
    }
  }
}

// out = x W^T + bias, for x [num_rows, num_inputs].
template <class In, class Out>
void multiply(const Matrix& m, const In* x, int64_t num_rows, Out* out, int num_threads) {
  static std::vector<RowGroup> quantized;
  const int num_groups = m.num_inputs / kGroup;
  if (quantized.size() < size_t(num_rows * num_groups)) quantized.resize(num_rows * num_groups);
  RowGroup* rows = quantized.data();
  const int64_t num_tiles = (m.num_outputs + kTile - 1) / kTile;
  if (num_tiles * kTile * m.num_inputs < kFewWeights) num_threads = 1;
  parallel(num_rows, num_rows < 8 ? 1 : num_threads, [=, &m](int64_t row) {
    quantize_row(x + row * m.num_inputs, rows + row * num_groups, num_groups);
  });
  for (int64_t row = 0; row < num_rows; row += kRowBlock)
    parallel(num_tiles, num_threads, [=, &m](int64_t tile) {
      const int count = std::min<int64_t>(kRowBlock, num_rows - row);
      const RowGroup* these = rows + row * num_groups;
      if (m.num_bits == 4)
        multiply_with_tile<4>(m, tile, these, count, out + row * m.num_outputs);
      else
        multiply_with_tile<8>(m, tile, these, count, out + row * m.num_outputs);
    });
}

// From values [outputs][groups][4 * num_bits bytes], scales and minima [outputs][groups]; of 4-bit
// values the first 16 of a group are in the low halves of its bytes. Missing outputs become zeros.
template <int kBits>
void pack(const Matrix& m, const uint8_t* values, const half* scales, const half* minima,
          int num_threads) {
  const int64_t num_groups = m.num_inputs / kGroup, num_tiles = (m.num_outputs + kTile - 1) / kTile;
  parallel(num_tiles, num_threads, [=, &m](int64_t tile) {
    auto* blocks = (Block<kBits>*)m.blocks + tile * num_groups;
    memset((void*)blocks, 0, num_groups * sizeof *blocks);
    const int count = std::min<int64_t>(kTile, m.num_outputs - tile * kTile);
    for (int i = 0; i < count; i++) {
      const int64_t first = (tile * kTile + i) * num_groups;
      for (int64_t group = 0; group < num_groups; group++) {
        Block<kBits>& block = blocks[group];
        for (int word = 0; word < kBits; word++)
          block.values[word][i] = load<uint32_t>(values + ((first + group) * kBits + word) * 4);
        block.scales[i] = scales[first + group];
        block.minima[i] = minima[first + group];
      }
    }
  });
}

}  // namespace
