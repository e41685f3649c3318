// One step: which tokens, where their pages are, and how work is shared out among threads.

#pragma once

#include <algorithm>
#include <cstdint>

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
}

namespace {

// One layer's pages, [num_blocks, 2, kv_heads, block_size, head_dim], as one KV head of one row
// sees them.
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

  T* key(int position) const {
    return head + table[position / block_size] * page_size + position % block_size * head_dim;
  }

  // The keys of positions `start` to `end`; their values lie `to_values` further.
  void find_keys(int start, int end, const T** keys) const {
    while (start < end) {
      const T* key_in_page = key(start);
      const int page_end = std::min(end, (start / block_size + 1) * block_size);
      for (; start < page_end; start++, key_in_page += head_dim) *keys++ = key_in_page;
    }
  }
};

}  // namespace
