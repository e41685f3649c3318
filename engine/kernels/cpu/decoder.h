// The decoder layers of one step in one call: what models/llama.py says, kernel by kernel. With one
// token in the step, calling each kernel from Python takes longer than many of them do.

#pragma once

#include "attention.h"
#include "quantized.h"
#include "rows.h"
#include "step.h"

extern "C" {

// One layer; `Layer` in decoder.py mirrors it.
struct Layer {
  const void *attention_norm, *mlp_norm;  // [hidden_size]
  const void *q_norm, *k_norm;            // [head_dim], or null
  const Matrix *qkv, *output, *gate_up, *down;
  float eps;
  Rule rule;
};
}

namespace {

// Memory for what lives shorter than a layer, each [num_tokens, ...].
template <class T>
struct Buffers {
  T *qkv, *attended, *gate_up, *gated;
};

// Norms of `num_heads` heads of every token, in place.
template <class T>
void norm_heads(const Step& s, T* first_head, int num_heads, const T* weight, float eps) {
  const int64_t token_size = int64_t(s.num_heads + 2 * s.num_kv_heads) * s.head_dim;
  for (int64_t token = 0; token < s.num_tokens; token++)
    for (int i = 0; i < num_heads; i++) {
      T* head = first_head + token * token_size + i * s.head_dim;
      norm_row<T>(head, nullptr, weight, head, s.head_dim, eps);
    }
}

// x and residual as a layer hands them to the next one: their sum is the residual stream.
template <class T>
void decoder_layer(const Layer& layer, const Step& s, T* x, T* residual, const float* cos_sin,
                   T* kv, const Buffers<T>& b) {
  const int num_rows = s.num_tokens, num_threads = s.num_threads;
  const int hidden_size = layer.qkv->num_inputs, inner_size = layer.down->num_inputs;
  norm(x, residual, (const T*)layer.attention_norm, x, num_rows, hidden_size, layer.eps,
       num_threads);
  multiply(*layer.qkv, x, num_rows, b.qkv, num_threads);
  if (layer.q_norm != nullptr) {
    T* keys = b.qkv + s.num_heads * s.head_dim;
    norm_heads(s, b.qkv, s.num_heads, (const T*)layer.q_norm, layer.eps);
    norm_heads(s, keys, s.num_kv_heads, (const T*)layer.k_norm, layer.eps);
  }
  rotary_store_kv(s, b.qkv, cos_sin, kv);
  Attention<T>{s, b.qkv, layer.qkv->num_outputs, kv, b.attended, layer.rule}.run();
  multiply(*layer.output, b.attended, num_rows, x, num_threads);
  norm(x, residual, (const T*)layer.mlp_norm, x, num_rows, hidden_size, layer.eps, num_threads);
  multiply(*layer.gate_up, x, num_rows, b.gate_up, num_threads);
  silu_mul(b.gate_up, b.gated, num_rows, inner_size, num_threads);
  multiply(*layer.down, b.gated, num_rows, x, num_threads);
}

}  // namespace
