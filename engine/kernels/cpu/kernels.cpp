// The kernels between the matrix products of one step, for CPUs. Built and called by the Python
// files beside this one; each does what the method of its name in engine/kernels/base.py says.
//
// T is float or bf16; arithmetic is in float32, products of bf16 are summed in float32. A token's
// result is the same bits whatever else is in the step and however many threads work on it: every
// sum has a fixed order. No fast-math, therefore.

#include <cmath>

#include "attention.h"
#include "quantized.h"
#include "step.h"
#include "vectors.h"

namespace {

// Numbers that one thread is done with sooner than another one is woken.
constexpr int64_t kFewElements = 32768;

// out = x / rms(x) * weight, where x is first added to the residual stream, if there is one.
template <class T>
void norm_row(const T* x, T* residual, const T* weight, T* out, int width, float eps) {
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

template <class T>
void norm(const T* x, T* residual, const T* weight, T* out, int64_t num_rows, int width, float eps,
          int num_threads) {
  parallel(num_rows, num_rows * width < kFewElements ? 1 : num_threads, [=](int64_t row) {
    const int64_t at = row * width;
    norm_row(x + at, residual == nullptr ? nullptr : residual + at, weight, out + at, width, eps);
  });
}

template <class T>
void silu_mul(const T* gate_up, T* out, int64_t num_rows, int width, int num_threads) {
  parallel(num_rows, num_rows * width * 2 < kFewElements ? 1 : num_threads, [=](int64_t row) {
    const T *gate = gate_up + row * 2 * width, *up = gate + width;
    for (int i = 0; i < width; i += kLanes) {
      const Vec x = read(gate + i, width - i);
      const Vec y = x / (exponential(-x) + 1.0f) * read(up + i, width - i);
      write(out + row * width + i, y, width - i);
    }
  });
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
      const Pages<T> pages(s, kv, s.rows[token], i);
      T* key = pages.key(s.positions[token]);
      rotate(head, angles, key, s.head_dim);
      memcpy(key + pages.to_values, value, s.head_dim * sizeof(T));
    }
  });
}

}  // namespace

// ---- What Python calls, once for each number format -----------------------------------------

#define EXPORT(T, suffix)                                                                        \
  extern "C" void norm_##suffix(const T* x, T* residual, const T* weight, T* out,                \
                                int64_t num_rows, int32_t width, float eps,                      \
                                int32_t num_threads) {                                           \
    norm(x, residual, weight, out, num_rows, width, eps, num_threads);                           \
  }                                                                                              \
  extern "C" void silu_mul_##suffix(const T* gate_up, T* out, int64_t num_rows, int32_t width,   \
                                    int32_t num_threads) {                                       \
    silu_mul(gate_up, out, num_rows, width, num_threads);                                        \
  }                                                                                              \
  extern "C" void rotary_store_kv_##suffix(const Step* step, T* qkv, const float* cos_sin,       \
                                           T* kv) {                                              \
    rotary_store_kv(*step, qkv, cos_sin, kv);                                                    \
  }                                                                                              \
  extern "C" void paged_attention_##suffix(const Step* step, const T* q, int64_t q_stride,       \
                                           T* kv, T* out) {                                      \
    Attention<T>{*step, q, q_stride, kv, out}.run();                                             \
  }                                                                                              \
  extern "C" void multiply_##suffix(const Matrix* matrix, const T* x, T* out, int64_t num_rows,  \
                                    int32_t num_threads) {                                       \
    multiply(*matrix, x, num_rows, out, num_threads);                                            \
  }

EXPORT(float, float32)
EXPORT(bf16, bfloat16)

extern "C" void multiply_bfloat16_to_float32(const Matrix* matrix, const bf16* x, float* out,
                                             int64_t num_rows, int32_t num_threads) {
  multiply(*matrix, x, num_rows, out, num_threads);
}

extern "C" void pack_matrix(const Matrix* matrix, const uint8_t* values, const half* scales,
                            const half* minima, int32_t num_threads) {
  if (matrix->num_bits == 4)
    pack<4>(*matrix, values, scales, minima, num_threads);
  else
    pack<8>(*matrix, values, scales, minima, num_threads);
}

extern "C" int64_t matrix_size(const Matrix* matrix) {
  const int64_t tiles = (matrix->num_outputs + kTile - 1) / kTile;
  const int64_t block = matrix->num_bits == 4 ? sizeof(Block<4>) : sizeof(Block<8>);
  return tiles * (matrix->num_inputs / kGroup) * block;
}

// What multiplies quantized weights, in words; empty where nothing does it fast.
extern "C" const char* dot_products() {
#if defined(OCTAVO_DOT)
  return OCTAVO_DOT;
#else
  return "";
#endif
}

// The instructions that were compiled for, in words.
extern "C" const char* instruction_set() {
#if defined(__AVX512BF16__)
  return "AVX-512 BF16";
#elif defined(__AVX512F__)
  return "AVX-512";
#elif defined(__AVX2__)
  return "AVX2";
#elif defined(__ARM_NEON)
  return "NEON";
#elif defined(__SSE2__)
  return "SSE2";
#else
  return "no vector instructions";
#endif
}
