// Every C++ kernel against its definition, in double, on random numbers: for processors that no
// Python with torch runs on here. Prints what was compiled for; on failure what differs, and 1.

#include "kernels.cpp"

#include <cstdio>
#include <random>

namespace {

constexpr int kThreads = 2, kBlockSize = 16, kTileRows = 48;  // as kernels.py has it

int num_failures = 0;

double normal() {
  static std::mt19937 bits(1);
  return std::normal_distribution<double>()(bits);
}

void expect(const char* what, double found, double wanted, double tolerance) {
  if (std::abs(found - wanted) <= tolerance) return;
  if (num_failures++ < 10) printf("%s: %.8g instead of %.8g\n", what, found, wanted);
}

template <class T>
void expect_same(const char* what, const T* found, const T* wanted, int count) {
  if (memcmp(found, wanted, count * sizeof(T)) == 0) return;
  if (num_failures++ < 10) printf("%s: not the same bits\n", what);
}

double value_of(float x) { return x; }
double value_of(bf16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  return load<float>(&bits);
}
double value_of(half x) {  // a normal number
  const double magnitude = std::ldexp(1024 + (x.bits & 1023), (x.bits >> 10 & 31) - 25);
  return x.bits >> 15 ? -magnitude : magnitude;
}

template <class T>
T number(double x);
template <>
float number(double x) {
  return x;
}
template <>
bf16 number(double x) {
  const float single = x;
  const uint32_t bits = load<uint32_t>(&single);
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <class T>
std::vector<T> normals(size_t count) {
  std::vector<T> numbers(count);
  for (T& x : numbers) x = number<T>(normal());
  return numbers;
}

template <class T>
std::vector<double> values_of(const std::vector<T>& numbers) {
  std::vector<double> values;
  for (T x : numbers) values.push_back(value_of(x));
  return values;
}

// What a result may differ by from the number that it is rounded from, and by its arithmetic.
template <class T>
double tolerance(double x) {
  return (std::is_same_v<T, float> ? 1e-5 : 2e-2) * (1 + std::abs(x));
}

// What Python calls for each number format.
template <class T>
struct Exported;
#define EXPORTED(T, suffix)                                           \
  template <>                                                         \
  struct Exported<T> {                                                \
    static constexpr auto norm = norm_##suffix;                       \
    static constexpr auto silu_mul = silu_mul_##suffix;               \
    static constexpr auto gelu_mul = gelu_mul_##suffix;               \
    static constexpr auto gelu = gelu_##suffix;                       \
    static constexpr auto add_layer_norm = add_layer_norm_##suffix;   \
    static constexpr auto rotary_store_kv = rotary_store_kv_##suffix; \
    static constexpr auto store_kv = store_kv_##suffix;               \
    static constexpr auto paged_attention = paged_attention_##suffix; \
    static constexpr auto multiply = multiply_##suffix;               \
  };
EXPORTED(float, float32)
EXPORTED(bf16, bfloat16)

template <class T>
void test_norm(int num_rows, int width, bool has_residual) {
  const std::vector<T> x = normals<T>(num_rows * width), weight = normals<T>(width);
  std::vector<T> residual = normals<T>(num_rows * width), out = x;
  std::vector<double> inputs = values_of(x);
  if (has_residual)
    for (size_t i = 0; i < inputs.size(); i++) {
      // As it is rounded when it is written.
      inputs[i] = value_of(number<T>(float(inputs[i]) + float(value_of(residual[i]))));
    }
  Exported<T>::norm(x.data(), has_residual ? residual.data() : nullptr, weight.data(), out.data(),
                    num_rows, width, 1e-5f, kThreads);
  for (int row = 0; row < num_rows; row++) {
    const double* numbers = &inputs[row * width];
    double squares = 0;
    for (int i = 0; i < width; i++) squares += numbers[i] * numbers[i];
    for (int i = 0; i < width; i++) {
      const int at = row * width + i;
      const double wanted =
          numbers[i] / std::sqrt(squares / width + 1e-5) * value_of(weight[i]);
      expect("norm", value_of(out[at]), wanted, tolerance<T>(wanted));
      if (has_residual) expect("residual", value_of(residual[at]), numbers[i], 0);
    }
  }
}

template <class T>
void test_silu_mul(int num_rows, int width) {
  const std::vector<T> gate_up = normals<T>(num_rows * 2 * width);
  std::vector<T> out(num_rows * width);
  Exported<T>::silu_mul(gate_up.data(), out.data(), num_rows, width, kThreads);
  for (int row = 0; row < num_rows; row++)
    for (int i = 0; i < width; i++) {
      const double gate = value_of(gate_up[row * 2 * width + i]);
      const double up = value_of(gate_up[row * 2 * width + width + i]);
      const double wanted = gate / (1 + std::exp(-gate)) * up;
      expect("silu_mul", value_of(out[row * width + i]), wanted, tolerance<T>(wanted));
    }
}

double gelu_of(double x) {
  return x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))) / 2;
}

template <class T>
void test_gelu(int num_rows, int width) {
  const std::vector<T> gate_up = normals<T>(num_rows * 2 * width);
  std::vector<T> activated(gate_up.size()), gated(num_rows * width);
  Exported<T>::gelu(gate_up.data(), activated.data(), num_rows, 2 * width, kThreads);
  Exported<T>::gelu_mul(gate_up.data(), gated.data(), num_rows, width, kThreads);
  for (size_t i = 0; i < gate_up.size(); i++) {
    const double wanted = gelu_of(value_of(gate_up[i]));
    expect("gelu", value_of(activated[i]), wanted, tolerance<T>(wanted));
    if (i % (2 * width) >= size_t(width)) continue;
    const double product = wanted * value_of(gate_up[i + width]);
    const size_t at = i / (2 * width) * width + i % (2 * width);
    expect("gelu_mul", value_of(gated[at]), product, tolerance<T>(product));
  }
}

template <class T>
void test_add_layer_norm(int num_rows, int width) {
  std::vector<T> x = normals<T>(num_rows * width), residual = normals<T>(num_rows * width);
  const std::vector<T> weight = normals<T>(width), bias = normals<T>(width);
  for (T& number_of_x : x) number_of_x = number<T>(value_of(number_of_x) + 2);  // a mean
  std::vector<double> inputs;
  for (size_t i = 0; i < x.size(); i++)
    inputs.push_back(value_of(number<T>(float(value_of(x[i])) + float(value_of(residual[i])))));
  Exported<T>::add_layer_norm(x.data(), residual.data(), weight.data(), bias.data(), num_rows,
                              width, 1e-5f, kThreads);
  for (int row = 0; row < num_rows; row++) {
    const double* numbers = &inputs[row * width];
    double mean = 0, squares = 0;
    for (int i = 0; i < width; i++) mean += numbers[i] / width;
    for (int i = 0; i < width; i++) squares += (numbers[i] - mean) * (numbers[i] - mean);
    for (int i = 0; i < width; i++) {
      const int at = row * width + i;
      const double wanted = (numbers[i] - mean) / std::sqrt(squares / width + 1e-5) *
                                value_of(weight[i]) + value_of(bias[i]);
      expect("layer norm", value_of(x[at]), wanted, tolerance<T>(wanted));
      expect("residual", value_of(residual[at]), numbers[i], 0);
    }
  }
}

// Sequences of `lengths` tokens, all in one step: rotated, stored, attended to. Then the last token
// of each in a step of their own, which must give the same bits.
template <class T>
void test_attention(const std::vector<int>& lengths, int num_heads, int num_kv_heads,
                    int head_dim) {
  const int max_blocks = *std::max_element(lengths.begin(), lengths.end()) / kBlockSize + 1;
  const int num_rows = lengths.size(), token_heads = num_heads + 2 * num_kv_heads;
  const int token_size = token_heads * head_dim, group = num_heads / num_kv_heads;
  std::vector<int64_t> rows, positions;
  std::vector<Tile> tiles, last_tiles;
  std::vector<int32_t> tables;
  std::vector<int> last_tokens;
  const int tile_tokens = kTileRows / group;
  for (int row = 0; row < num_rows; row++) {
    const int first = rows.size();
    for (int start = 0; start < lengths[row]; start += tile_tokens)
      tiles.push_back({row, first + start, std::min(tile_tokens, lengths[row] - start), start});
    for (int position = 0; position < lengths[row]; position++) {
      rows.push_back(row);
      positions.push_back(position);
    }
    // Pages of all rows in turn, from the last one.
    for (int i = 0; i < max_blocks; i++) tables.push_back((max_blocks - 1 - i) * num_rows + row);
    last_tokens.push_back(rows.size() - 1);
    last_tiles.push_back({row, row, 1, lengths[row] - 1});
  }
  const int num_tokens = rows.size();
  Step step = {};
  step.rows = rows.data();
  step.positions = positions.data();
  step.block_tables = tables.data();
  step.tiles = tiles.data();
  step.num_tokens = num_tokens;
  step.num_tiles = tiles.size();
  step.max_blocks = max_blocks;
  step.block_size = kBlockSize;
  step.num_heads = num_heads;
  step.num_kv_heads = num_kv_heads;
  step.head_dim = head_dim;
  step.num_threads = kThreads;

  std::vector<T> qkv = normals<T>(num_tokens * token_size);
  std::vector<double> numbers = values_of(qkv);
  std::vector<float> cos_sin(num_tokens * 2 * head_dim);
  for (int token = 0; token < num_tokens; token++)
    for (int i = 0; i < head_dim / 2; i++) {
      float* angles = &cos_sin[token * 2 * head_dim + i];
      const double angle = normal(), cos = std::cos(angle), sin = std::sin(angle);
      angles[0] = angles[head_dim / 2] = cos;
      angles[head_dim] = -sin;
      angles[head_dim + head_dim / 2] = sin;
      for (int head = 0; head < num_heads + num_kv_heads; head++) {
        double* a = &numbers[token * token_size + head * head_dim + i];
        double* b = a + head_dim / 2;
        const double turned = *a * cos - *b * sin;
        *b = *b * cos + *a * sin;
        *a = turned;
      }
    }
  // Nothing that a token may not see is looked at: NaN.
  std::vector<T> kv(num_rows * max_blocks * 2 * num_kv_heads * kBlockSize * head_dim,
                    number<T>(std::nan("")));
  Exported<T>::rotary_store_kv(&step, qkv.data(), cos_sin.data(), kv.data());
  for (int token = 0; token < num_tokens; token++)
    for (int i = 0; i < num_heads * head_dim; i++) {
      const int at = token * token_size + i;
      expect("rotary", value_of(qkv[at]), numbers[at], tolerance<T>(numbers[at]));
    }
  // Now that they are rotated, storing them again changes nothing.
  std::vector<T> stored(kv.size(), number<T>(std::nan("")));
  Exported<T>::store_kv(&step, qkv.data(), stored.data());
  expect_same("store_kv", stored.data(), kv.data(), kv.size());
  const Rule rule = {INT32_MAX, 0.0f, float(1 / std::sqrt(head_dim))};
  std::vector<T> out(num_tokens * num_heads * head_dim);
  Exported<T>::paged_attention(&step, &rule, qkv.data(), token_size, kv.data(), out.data());

  for (int token = 0; token < num_tokens; token++)
    for (int head = 0; head < num_heads; head++) {
      const int context = positions[token] + 1, first = token - positions[token];
      const double* q = &numbers[token * token_size + head * head_dim];
      const int to_key = (num_heads + head / group) * head_dim;
      std::vector<double> weights(context), wanted(head_dim);
      double total = 0;
      for (int i = 0; i < context; i++) {
        const double* key = &numbers[(first + i) * token_size + to_key];
        double score = 0;
        for (int j = 0; j < head_dim; j++) score += q[j] * key[j];
        total += weights[i] = std::exp(score / std::sqrt(head_dim));
      }
      for (int i = 0; i < context; i++) {
        const int at = (first + i) * token_size + to_key + num_kv_heads * head_dim;
        for (int j = 0; j < head_dim; j++) wanted[j] += weights[i] / total * numbers[at + j];
      }
      const T* found = &out[(token * num_heads + head) * head_dim];
      for (int j = 0; j < head_dim; j++)
        expect("attention", value_of(found[j]), wanted[j], tolerance<T>(wanted[j]));
    }

  std::vector<T> last_qkv(num_rows * token_size), last_out(num_rows * num_heads * head_dim);
  std::vector<int64_t> last_rows, last_positions;
  for (int row = 0; row < num_rows; row++) {
    memcpy(&last_qkv[row * token_size], &qkv[last_tokens[row] * token_size],
           token_size * sizeof(T));
    last_rows.push_back(row);
    last_positions.push_back(lengths[row] - 1);
  }
  step.rows = last_rows.data();
  step.positions = last_positions.data();
  step.tiles = last_tiles.data();
  step.num_tokens = step.num_tiles = num_rows;
  Exported<T>::paged_attention(&step, &rule, last_qkv.data(), token_size, kv.data(),
                               last_out.data());
  for (int row = 0; row < num_rows; row++)
    expect_same("attention of a token alone", &last_out[row * num_heads * head_dim],
                &out[last_tokens[row] * num_heads * head_dim], num_heads * head_dim);
}

// Weights of `num_bits` in groups of 32, as `pack_matrix` takes them, times num_rows rows.
template <class T>
void test_multiply(int num_bits, int num_outputs, int num_inputs, int num_rows, bool has_bias) {
  std::mt19937 bits(num_bits + num_rows);
  const int num_groups = num_inputs / 32, group_bytes = 4 * num_bits;
  const auto random_half = [&](bool is_signed) {
    const uint16_t sign = is_signed ? bits() & 0x8000 : 0;
    return half{uint16_t(sign | (7 + bits() % 2) << 10 | bits() % 1024)};
  };
  std::vector<uint8_t> values(num_outputs * num_groups * group_bytes);
  std::vector<half> scales, minima;
  std::vector<float> bias((num_outputs + 63) / 32 * 32);
  for (uint8_t& value : values) value = bits();
  for (float& value : bias) value = normal();
  for (int i = 0; i < num_outputs * num_groups; i++) {
    scales.push_back(random_half(false));
    minima.push_back(random_half(true));
  }
  Matrix matrix = {};
  matrix.num_bits = num_bits;
  matrix.num_outputs = num_outputs;
  matrix.num_inputs = num_inputs;
  matrix.bias = has_bias ? bias.data() : nullptr;
  std::vector<uint64_t> blocks((matrix_size(&matrix) + 7) / 8);
  matrix.blocks = blocks.data();
  pack_matrix(&matrix, values.data(), scales.data(), minima.data(), kThreads);

  const std::vector<T> x = normals<T>(num_rows * num_inputs);
  std::vector<T> out(num_rows * num_outputs), alone(num_outputs);
  Exported<T>::multiply(&matrix, x.data(), out.data(), num_rows, kThreads);
  for (int row = 0; row < num_rows; row++) {
    std::vector<double> step(num_groups);  // of the row's rounding to 8 bits
    for (int i = 0; i < num_inputs; i++)
      step[i / 32] = std::max(step[i / 32], std::abs(value_of(x[row * num_inputs + i])) / 127);
    for (int output = 0; output < num_outputs; output++) {
      double wanted = has_bias ? bias[output] : 0, rounded = 0;
      for (int i = 0; i < num_inputs; i++) {
        const int group = output * num_groups + i / 32, at = i % 32;
        const uint8_t* bytes = &values[group * group_bytes];
        const int u = num_bits == 8 ? bytes[at] : bytes[at % 16] >> at / 16 * 4 & 15;
        const double weight = u * value_of(scales[group]) + value_of(minima[group]);
        wanted += weight * value_of(x[row * num_inputs + i]);
        rounded += std::abs(weight) * step[i / 32] * 0.51;
      }
      expect("multiply", value_of(out[row * num_outputs + output]), wanted,
             rounded + tolerance<T>(wanted));
    }
    Exported<T>::multiply(&matrix, &x[row * num_inputs], alone.data(), 1, kThreads);
    expect_same("multiply of a row alone", &out[row * num_outputs], alone.data(), num_outputs);
  }
}

template <class T>
void test_all() {
  for (int width : {33, 40, 576}) {
    test_norm<T>(1, width, false);
    test_norm<T>(5, width, true);
    test_silu_mul<T>(1, width);
    test_silu_mul<T>(70, width);
    for (int num_rows : {1, 70}) {
      test_gelu<T>(num_rows, width);
      test_add_layer_norm<T>(num_rows, width);
    }
  }
  test_attention<T>({1, 20, 300}, 9, 3, 64);
  test_attention<T>({17, 5, 33, 2}, 2, 2, 24);
  test_attention<T>({600}, 4, 1, 32);
  for (int num_bits : {4, 8}) {
    for (int num_rows : {1, 2, 3, 6, 7, 13}) test_multiply<T>(num_bits, 70, 96, num_rows, true);
    test_multiply<T>(num_bits, 1030, 96, 9, false);  // enough for several threads
  }
}

}  // namespace

int main() {
  printf("%s; dot products: %s\n", instruction_set(), dot_products());
  for (bool is_own : {false, true}) {
    if (is_own) use_own_threads();
    test_all<float>();
    test_all<bf16>();
  }
  if (num_failures > 0) printf("%d numbers are wrong\n", num_failures);
  return num_failures > 0;
}
