// What is done to each token alone: norms, activations, rotary positions.

#pragma once

#include <cmath>

#include "step.h"
#include "vectors.h"

namespace {

// Numbers that one thread is done with sooner than another one is woken.
constexpr int64_t kFewElements = 32768;

// out = x / rms(x) * weight, where x is first added to the residual stream, if there is one.
template <class T, class W>
void norm_row(const T* x, T* residual, const W* weight, T* out, int width, float eps) {
  if (residual != nullptr) {
    for (int i = 0; i < width; i += kLanes)
      write(residual + i, read(residual + i, width - i) + read(x + i, width - i), width - i);
    x = residual;
  }
  Vec squares = {};
  for (int i = 0; i < width; i += kLanes) {
    const Vec v = read(x + i, width - i);
    squares += v * v;
  }
  const float scale = 1.0f / std::sqrt(sum(squares) / width + eps);
  for (int i = 0; i < width; i += kLanes)
    write(out + i, read(x + i, width - i) * scale * read(weight + i, width - i), width - i);
}

template <class T, class W>
void norm(const T* x, T* residual, const W* weight, T* out, int64_t num_rows, int width, float eps,
          int num_threads) {
  parallel(num_rows, num_rows * width < kFewElements ? 1 : num_threads, [=](int64_t row) {
    const int64_t at = row * width;
    norm_row(x + at, residual == nullptr ? nullptr : residual + at, weight, out + at, width, eps);
  });
}

// x is added to the residual stream, then x = (stream - mean) / deviation * weight + bias.
template <class T>
void add_layer_norm_row(T* x, T* residual, const T* weight, const T* bias, int width, float eps) {
  Vec numbers = {};
  for (int i = 0; i < width; i += kLanes) {
    write(residual + i, read(residual + i, width - i) + read(x + i, width - i), width - i);
    numbers += read(residual + i, width - i);
  }
  const float mean = sum(numbers) / width;
  Ints lane = {};
  for (int i = 0; i < kLanes; i++) lane[i] = i;
  Vec squares = {};
  for (int i = 0; i < width; i += kLanes) {
    const Vec v = lane + i < width ? read(residual + i, width - i) - mean : Vec{};
    squares += v * v;
  }
  const float scale = 1.0f / std::sqrt(sum(squares) / width + eps);
  for (int i = 0; i < width; i += kLanes) {
    const Vec v = (read(residual + i, width - i) - mean) * scale;
    write(x + i, v * read(weight + i, width - i) + read(bias + i, width - i), width - i);
  }
}

template <class T>
void add_layer_norm(T* x, T* residual, const T* weight, const T* bias, int64_t num_rows, int width,
                    float eps, int num_threads) {
  parallel(num_rows, num_rows * width < kFewElements ? 1 : num_threads, [=](int64_t row) {
    add_layer_norm_row(x + row * width, residual + row * width, weight, bias, width, eps);
  });
}

inline Vec silu(Vec x) { return x / (exponential(-x) + 1.0f); }

// (1 + tanh(u)) / 2 is 1 / (1 + e^(-2u)), with u = sqrt(2 / pi) * (x + 0.044715 x^3).
inline Vec gelu(Vec x) {
  const Vec u = (x * x * x * 0.044715f + x) * 0.7978845608f;
  return x / (exponential(u * -2.0f) + 1.0f);
}

template <class T>
void gelu(const T* x, T* out, int64_t num_rows, int width, int num_threads) {
  parallel(num_rows, num_rows * width < kFewElements ? 1 : num_threads, [=](int64_t row) {
    const int64_t at = row * width;
    for (int i = 0; i < width; i += kLanes)
      write(out + at + i, gelu(read(x + at + i, width - i)), width - i);
  });
}

// activation(gate) * up
template <Vec (*activation)(Vec), class T>
void gate(const T* gate_up, T* out, int64_t num_rows, int width, int num_threads) {
  parallel(num_rows, num_rows * width * 2 < kFewElements ? 1 : num_threads, [=](int64_t row) {
    const T *gate = gate_up + row * 2 * width, *up = gate + width;
    for (int i = 0; i < width; i += kLanes) {
      const Vec y = activation(read(gate + i, width - i)) * read(up + i, width - i);
      write(out + row * width + i, y, width - i);
    }
  });
}

template <class T>
void silu_mul(const T* gate_up, T* out, int64_t num_rows, int width, int num_threads) {
  gate<silu>(gate_up, out, num_rows, width, num_threads);
}

template <class T>
void gelu_mul(const T* gate_up, T* out, int64_t num_rows, int width, int num_threads) {
  gate<gelu>(gate_up, out, num_rows, width, num_threads);
}

// cos_sin is (cos, cos) and (-sin, sin), each of head_dim numbers.
template <class T>
void rotate(const T* x, const float* cos_sin, T* out, int head_dim) {
  const int half = head_dim / 2;
  const float* sin = cos_sin + head_dim;
  for (int i = 0; i < half; i += kLanes) {
    const Vec a = read(x + i, half - i), b = read(x + half + i, half - i);
    const Vec cos_a = read(cos_sin + i, half - i), cos_b = read(cos_sin + half + i, half - i);
    write(out + i, a * cos_a + b * read(sin + i, half - i), half - i);
    write(out + half + i, b * cos_b + a * read(sin + half + i, half - i), half - i);
  }
}

template <class T>
void rotary_store_kv(const Step& s, T* qkv, const float* cos_sin, T* kv) {
  const int64_t token_size = int64_t(s.num_heads + 2 * s.num_kv_heads) * s.head_dim;
  const bool is_small = s.num_tokens * token_size < kFewElements;
  parallel(s.num_tokens, is_small ? 1 : s.num_threads, [=, &s](int64_t token) {
    T* head = qkv + token * token_size;
    const float* angles = cos_sin + token * 2 * s.head_dim;
    for (int i = 0; i < s.num_heads; i++, head += s.head_dim)
      rotate(head, angles, head, s.head_dim);
    const T* value = head + s.num_kv_heads * s.head_dim;
    for (int i = 0; i < s.num_kv_heads; i++, head += s.head_dim, value += s.head_dim) {
      rotate(head, angles, head, s.head_dim);
      Pages<T>(s, kv, s.rows[token], i).store(s.positions[token], head, value);
    }
  });
}

// Keys and values go to their pages as they are.
template <class T>
void store_kv(const Step& s, const T* qkv, T* kv) {
  const int64_t token_size = int64_t(s.num_heads + 2 * s.num_kv_heads) * s.head_dim;
  const bool is_small = s.num_tokens * token_size < kFewElements;
  parallel(s.num_tokens, is_small ? 1 : s.num_threads, [=, &s](int64_t token) {
    const T* key = qkv + token * token_size + s.num_heads * s.head_dim;
    const T* value = key + s.num_kv_heads * s.head_dim;
    for (int i = 0; i < s.num_kv_heads; i++, key += s.head_dim, value += s.head_dim)
      Pages<T>(s, kv, s.rows[token], i).store(s.positions[token], key, value);
  });
}

}  // namespace
