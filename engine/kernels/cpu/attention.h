// Causal attention over pages, for every mix of prompt chunks and single tokens.
//
// The context is cut at fixed positions and its parts are merged from first to last: a row's result
// depends on nothing but its own context. Two products a part: scores, then weighted values.

#pragma once

#include <algorithm>
#include <vector>

#include "products.h"
#include "step.h"

namespace {

// Context positions that are attended to at once.
constexpr int kSegment = 256;
static_assert(kSegment % kColumns == 0);
// Stands for "nothing seen yet" as a maximum: differences to it stay finite.
constexpr float kNoScore = -1e30f;
// Floats for parts that wait to be merged, for each thread: 1 MB, a few parts of the largest tiles.
constexpr int64_t kWaitingFloats = 1 << 18;
// Multiplications that one thread has done sooner than another one is woken.
constexpr int64_t kFewProducts = 1 << 17;

// What query rows have gathered from a part of their context (online softmax: Milakov and
// Gimelshein, 2018). A row is `output` [width], not yet normalised, then `maximum` and `total`.
struct Partial {
  float* data;
  int width;

  static int row_size(int width) { return width + kLanes; }
  float* output(int row) const { return data + int64_t(row) * row_size(width); }
  float& maximum(int row) const { return output(row)[width]; }
  float& total(int row) const { return output(row)[width + 1]; }
};

// Takes in the next part of the context. A part in which a row sees nothing changes no bit of it.
void merge(const Partial& into, const Partial& next, int num_rows) {
  for (int row = 0; row < num_rows; row++) {
    const float largest = std::max(into.maximum(row), next.maximum(row));
    const Vec scale = exponential(splat(into.maximum(row) - largest));
    const Vec next_scale = exponential(splat(next.maximum(row) - largest));
    float *sums = into.output(row), *next_sums = next.output(row);
    for (int i = 0; i < into.width; i += kLanes)
      write(sums + i, read(sums + i) * scale + read(next_sums + i) * next_scale);
    into.total(row) = into.total(row) * scale[0] + next.total(row) * next_scale[0];
    into.maximum(row) = largest;
  }
}

// cap * tanh(score / cap)
inline Vec soft_capped(Vec score, float cap) {
  return cap - 2 * cap / (exponential(score * (2 / cap)) + 1.0f);
}

// A thread's own memory, kept from call to call.
template <class T>
struct Workspace {
  std::vector<T> queries, weights;
  std::vector<float> scores, sums, next_sums;
  Strip strips[2 * kSegment / kLanes + kAhead] = {};

  static Workspace& of_thread() {
    thread_local Workspace workspace;
    return workspace;
  }
};

template <class V>
auto* at_least(V& vector, size_t size) {
  if (vector.size() < size) vector.resize(size);
  return vector.data();
}

// The attention of one layer: query rows of a tile are its tokens' heads that share a KV head.
template <class T>
struct Attention {
  const Step& s;
  const T* q;
  int64_t q_stride;
  T* kv;
  T* out;
  Rule rule;
  int group = s.num_heads / s.num_kv_heads;
  int width = (s.head_dim + kLanes - 1) / kLanes * kLanes;

  int num_rows(const Tile& tile) const { return tile.num_tokens * group; }
  // The first position that a token at `position` sees.
  int first_seen(int position) const { return std::max(0, position + 1 - rule.window); }
  int first_segment(const Tile& tile) const { return first_seen(tile.start) / kSegment; }
  // Of those that the tile sees anything of.
  int num_segments(const Tile& tile) const {
    return (tile.start + tile.num_tokens + kSegment - 1) / kSegment - first_segment(tile);
  }
  Partial partial(float* data) const { return {data, width}; }
  size_t partial_size(const Tile& tile) const { return num_rows(tile) * Partial::row_size(width); }

  // What the tile's rows gather from the `index`-th segment, the kSegment positions from a multiple
  // of it, without those that lie before every window. Leaving out a whole strip, whose weights
  // would be 0, changes no bit.
  void attend(const Tile& tile, int kv_head, int index, const Partial& result) const {
    Workspace<T>& own = Workspace<T>::of_thread();
    const int rows = num_rows(tile), segment = (first_segment(tile) + index) * kSegment;
    const int start = std::max(segment, first_seen(tile.start) / kLanes * kLanes);
    const int count = std::min(segment + kSegment, tile.start + tile.num_tokens) - start;
    const int words = s.head_dim / kPerWord<T>;
    T* queries = at_least(own.queries, rows * s.head_dim);
    T* weights = at_least(own.weights, rows * kSegment);
    float* scores = at_least(own.scores, rows * kSegment);

    for (int i = 0; i < tile.num_tokens; i++)
      memcpy(queries + i * group * s.head_dim,
             q + (tile.first_token + i) * q_stride + kv_head * group * s.head_dim,
             group * s.head_dim * sizeof(T));
    const Pages<T> pages(s, kv, tile.row, kv_head);
    const int num_strips = (count + kLanes - 1) / kLanes;
    Strip *keys = own.strips, *values = keys + num_strips;
    for (int i = 0; i < num_strips; i++) {
      keys[i] = {pages.keys(start + i * kLanes), s.block_size};
      values[i] = {pages.values(start + i * kLanes), kLanes};
    }
    // The next head's keys are wanted after these values.
    for (int i = 0; i < kAhead && i < num_strips; i++)
      values[num_strips + i] = {keys[i].words + s.block_size * words, s.block_size};

    for (int first = 0; first < num_strips; first += kVectors)
      for (int row = 0; row < rows; row += kRows)
        with_constants(rows - row, num_strips - first, [&](auto num_rows, auto num_vectors) {
          score<T, num_rows(), num_vectors()>((const uint32_t*)(queries + row * s.head_dim), words,
                                              keys + first, scores + row * kSegment + first * kLanes,
                                              kSegment);
        });
    const bool is_plain = rule.soft_cap == 0 && first_seen(tile.start + tile.num_tokens - 1) <= start;
    for (int row = 0; row < rows; row++) {
      const int position = tile.start + row / group;
      const int hidden = first_seen(position) - start, visible = position + 1 - start;
      const int at = row * kSegment;
      if (is_plain) softmax<true>(scores + at, 0, visible, count, weights + at, result, row);
      else softmax<false>(scores + at, hidden, visible, count, weights + at, result, row);
    }
    constexpr int kWeightWords = kSegment / kPerWord<T>;
    for (int first = 0; first < s.head_dim; first += kColumns)
      for (int row = 0; row < rows; row += kRows) {
        const auto* from = (const uint32_t*)(weights + row * kSegment);
        float* to = result.output(row);
        const int num_whole = (s.head_dim - first) / kLanes;
        if (num_whole > 0)
          with_constants(rows - row, num_whole, [&](auto num_rows, auto num_vectors) {
            weigh<T, num_rows(), num_vectors()>(from, kWeightWords, values, s.head_dim, first,
                                                count, to + first, Partial::row_size(width));
          });
        const int tail = first + num_whole * kLanes;
        if (num_whole < kVectors && tail < s.head_dim)
          with_constants<kRows, 1>(rows - row, 1, [&](auto num_rows, auto) {
            weigh<T, num_rows(), 1, true>(from, kWeightWords, values, s.head_dim, tail, count,
                                          to + tail, Partial::row_size(width));
          });
      }
  }

  // Weights of the `visible` first of `count` scores but for the `hidden` first, not yet divided by
  // their total. With kIsPlain there are no hidden ones and no soft cap.
  template <bool kIsPlain>
  void softmax(float* scores, int hidden, int visible, int count, T* weights,
               const Partial& result, int row) const {
    Ints lane = {};
    for (int i = 0; i < kLanes; i++) lane[i] = i;
    const auto is_seen = [=](int i) -> Ints {
      if constexpr (kIsPlain) return lane + i < visible;
      else return (lane + i < visible) & (lane + i >= hidden);
    };
    Vec largest = splat(kNoScore), total = {};
    for (int i = 0; i < count; i += kLanes) {
      Vec score = read(scores + i) * rule.scale;
      if constexpr (!kIsPlain)
        if (rule.soft_cap != 0) score = soft_capped(score, rule.soft_cap);
      score = is_seen(i) ? score : splat(kNoScore);
      write(scores + i, score);
      largest = larger(score, largest);
    }
    result.maximum(row) = maximum(largest);
    for (int i = 0; i < count; i += kLanes) {
      const Vec weight = exponential(read(scores + i) - result.maximum(row));
      const Vec seen = is_seen(i) ? weight : Vec{};
      total += seen;
      write(weights + i, seen);
    }
    result.total(row) = sum(total);
  }

  void finish(const Tile& tile, int kv_head, const Partial& sums) const {
    for (int row = 0; row < num_rows(tile); row++) {
      const int64_t head = (tile.first_token + row / group) * int64_t(s.num_heads) +
                           kv_head * group + row % group;
      for (int i = 0; i < s.head_dim; i += kLanes)
        write(out + head * s.head_dim + i, read(sums.output(row) + i) / sums.total(row),
              s.head_dim - i);
    }
  }

  // Tiles and KV heads are shared out among the threads; where there are too few of them, their
  // segments first. The numbers are the same: it is always segments that are merged, in order.
  void run() const {
    int64_t products = 0;
    int most_segments = 0;
    size_t most_sums = 0;
    for (const Tile* tile = s.tiles; tile < s.tiles + s.num_tiles; tile++) {
      const int context = tile->start + tile->num_tokens - first_seen(tile->start);
      products += int64_t(num_rows(*tile)) * context;
      most_segments = std::max(most_segments, num_segments(*tile));
      most_sums = std::max(most_sums, partial_size(*tile));
    }
    products *= s.num_kv_heads * s.head_dim;
    const int num_threads = products < kFewProducts ? 1 : s.num_threads;
    const int64_t num_items = int64_t(s.num_tiles) * s.num_kv_heads;
    const bool by_segment = num_threads > 1 && num_items < 4 * num_threads && most_segments > 1;

    // A tile's KV heads share pages; the tiles of a prompt have ever longer contexts.
    const int64_t share = s.num_tiles < num_threads ? 1 : s.num_kv_heads;

    if (by_segment) return run_by_segment(num_threads, num_items, most_segments, most_sums);
    parallel(num_items, num_threads, [&](int64_t item) {
      const Tile& tile = s.tiles[item / s.num_kv_heads];
      const int kv_head = item % s.num_kv_heads;
      Workspace<T>& own = Workspace<T>::of_thread();
      const Partial sums = partial(at_least(own.sums, partial_size(tile)));
      const Partial next = partial(at_least(own.next_sums, partial_size(tile)));
      attend(tile, kv_head, 0, sums);
      for (int segment = 1; segment < num_segments(tile); segment++) {
        attend(tile, kv_head, segment, next);
        merge(sums, next, num_rows(tile));
      }
      finish(tile, kv_head, sums);
    }, share);
  }

  // Some segments of every item at a time, not to keep the parts of a long context all at once. An
  // item's first part takes in the others.
  void run_by_segment(int num_threads, int64_t num_items, int most_segments,
                      size_t most_sums) const {
    const int64_t fitting = num_threads * kWaitingFloats / int64_t(num_items * most_sums);
    const int num_parts = std::clamp<int64_t>(fitting, 2, most_segments);
    static std::vector<float> shared;
    float* parts = at_least(shared, num_items * num_parts * most_sums);
    const auto part = [=](int64_t item, int index) {
      return partial(parts + (item * num_parts + index) * most_sums);
    };
    for (int first = 0, end; first < most_segments; first = end) {
      const int kept = first > 0 ? 1 : 0, count = std::min(num_parts - kept, most_segments - first);
      end = first + count;
      parallel(num_items * count, num_threads, [&](int64_t i) {
        const int64_t item = i / count;
        const int index = i % count;
        const Tile& tile = s.tiles[item / s.num_kv_heads];
        if (first + index < num_segments(tile))
          attend(tile, item % s.num_kv_heads, first + index, part(item, kept + index));
      });
      for (int64_t item = 0; item < num_items; item++) {
        const Tile& tile = s.tiles[item / s.num_kv_heads];
        for (int segment = std::max(first, 1); segment < std::min(end, num_segments(tile)); segment++)
          merge(part(item, 0), part(item, kept + segment - first), num_rows(tile));
      }
    }
    for (int64_t item = 0; item < num_items; item++)
      finish(s.tiles[item / s.num_kv_heads], item % s.num_kv_heads, part(item, 0));
  }
};

}  // namespace
