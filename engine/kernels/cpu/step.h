// One step: which tokens, where their pages are, and how work is shared out among threads.

#pragma once

#include <cstdint>
#include <cstring>

#include "pool.h"

extern "C" {

// The tokens `first_token`.. of the step, positions `start`.. of the sequence in row `row`.
struct Tile {
  int32_t row, first_token, num_tokens, start;
};

// One step, the same for all layers; `Step` in kernels.py mirrors it.
struct Step {
  const int64_t *rows, *positions;  // [num_tokens]
  const int32_t* block_tables;      // [rows of the table, max_blocks]
  const Tile* tiles;                // every token is in one of them
  int32_t num_tokens, num_tiles, max_blocks, block_size;
  int32_t num_heads, num_kv_heads, head_dim, num_threads;
};

// What a layer's attention sees and how it scores; `Rule` in rule.py mirrors it.
struct Rule {
  int32_t window;         // last positions that a token sees; INT32_MAX for all
  float soft_cap, scale;  // a cap of 0 is none
};
}

namespace {

// Numbers of a format that lie in one 32-bit word: what products sum over.
template <class T>
constexpr int kPerWord = sizeof(uint32_t) / sizeof(T);

// One layer's pages as one KV head of one row sees them. A page is [2, kv_heads, ..] of words, laid
// out as attention multiplies them: keys are [head_dim / kPerWord, block_size], values
// [block_size / kPerWord, head_dim]. A word holds neighbours of the dimension that is summed over.
template <class T>
struct Pages {
  T* head;               // keys of this head in page 0
  const int32_t* table;  // the row's pages
  int block_size, head_dim;
  int64_t to_values, page_size;

  Pages(const Step& s, T* kv, int row, int kv_head)
      : head(kv + int64_t(kv_head) * s.block_size * s.head_dim),
        table(s.block_tables + int64_t(row) * s.max_blocks),
        block_size(s.block_size),
        head_dim(s.head_dim),
        to_values(int64_t(s.num_kv_heads) * s.block_size * s.head_dim),
        page_size(2 * to_values) {}

  T* page(int position) const { return head + table[position / block_size] * page_size; }

  // The key's first word; the next ones are block_size words apart.
  const uint32_t* keys(int position) const {
    return (const uint32_t*)page(position) + position % block_size;
  }
  // The words of the value at a position that is a multiple of kPerWord, and of its neighbours.
  const uint32_t* values(int position) const {
    const int at = position % block_size * head_dim / kPerWord<T>;
    return (const uint32_t*)(page(position) + to_values) + at;
  }

  // Threads may write neighbours at the same time: a value's numbers are stored one by one.
  void store(int position, const T* key, const T* value) const {
    const int column = position % block_size, neighbour = column % kPerWord<T>;
    T* to_key = page(position) + column * kPerWord<T>;
    for (int i = 0; i < head_dim; i += kPerWord<T>, to_key += block_size * kPerWord<T>)
      memcpy(to_key, key + i, sizeof(uint32_t));
    T* to_value = page(position) + to_values + (column - neighbour) * head_dim + neighbour;
    for (int i = 0; i < head_dim; i++) to_value[i * kPerWord<T>] = value[i];
  }
};

}  // namespace
