// The kernels between the matrix products of one step, for CPUs. Built and called by the Python
// files beside this one; each does what the method of its name in engine/kernels/base.py says.
//
// T is float or bf16; arithmetic is in float32, products of bf16 are summed in float32. A token's
// result is the same bits whatever else is in the step and however many threads work on it: every
// sum has a fixed order. No fast-math, therefore.

#include "attention.h"
#include "decoder.h"
#include "quantized.h"
#include "rows.h"
#include "step.h"
#include "vectors.h"

// ---- What Python calls, once for each number format -----------------------------------------

#define EXPORT(T, suffix)                                                                        \
  extern "C" void norm_##suffix(const T* x, T* residual, const T* weight, T* out,                \
                                int64_t num_rows, int32_t width, float eps,                      \
                                int32_t num_threads) {                                           \
    norm(x, residual, weight, out, num_rows, width, eps, num_threads);                           \
  }                                                                                              \
  extern "C" void norm_by_float32_##suffix(const T* x, T* residual, const float* weight, T* out, \
                                           int64_t num_rows, int32_t width, float eps,           \
                                           int32_t num_threads) {                                \
    norm(x, residual, weight, out, num_rows, width, eps, num_threads);                           \
  }                                                                                              \
  extern "C" void silu_mul_##suffix(const T* gate_up, T* out, int64_t num_rows, int32_t width,   \
                                    int32_t num_threads) {                                       \
    silu_mul(gate_up, out, num_rows, width, num_threads);                                        \
  }                                                                                              \
  extern "C" void gelu_mul_##suffix(const T* gate_up, T* out, int64_t num_rows, int32_t width,   \
                                    int32_t num_threads) {                                       \
    gelu_mul(gate_up, out, num_rows, width, num_threads);                                        \
  }                                                                                              \
  extern "C" void gelu_##suffix(const T* x, T* out, int64_t num_rows, int32_t width,             \
                                int32_t num_threads) {                                           \
    gelu(x, out, num_rows, width, num_threads);                                                  \
  }                                                                                              \
  extern "C" void add_layer_norm_##suffix(T* x, T* residual, const T* weight, const T* bias,     \
                                          int64_t num_rows, int32_t width, float eps,            \
                                          int32_t num_threads) {                                 \
    add_layer_norm(x, residual, weight, bias, num_rows, width, eps, num_threads);                \
  }                                                                                              \
  extern "C" void rotary_store_kv_##suffix(const Step* step, T* qkv, const float* cos_sin,       \
                                           T* kv) {                                              \
    rotary_store_kv(*step, qkv, cos_sin, kv);                                                    \
  }                                                                                              \
  extern "C" void store_kv_##suffix(const Step* step, const T* qkv, T* kv) {                     \
    store_kv(*step, qkv, kv);                                                                    \
  }                                                                                              \
  extern "C" void paged_attention_##suffix(const Step* step, const Rule* rule, const T* q,       \
                                           int64_t q_stride, T* kv, T* out) {                    \
    Attention<T>{*step, q, q_stride, kv, out, *rule}.run();                                      \
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

extern "C" void decoder_layers_bfloat16(const Layer* layers, int32_t num_layers, const Step* step,
                                        bf16* x, bf16* residual, const float* const* cos_sin,
                                        bf16* const* kv, const Buffers<bf16>* buffers) {
  for (int i = 0; i < num_layers; i++)
    decoder_layer(layers[i], *step, x, residual, cos_sin[i], kv[i], *buffers);
}

// From now on loops run on our own threads.
extern "C" void use_own_threads() { Pool::is_used() = true; }

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
