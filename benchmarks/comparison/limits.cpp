// What the machine can do at best, on all cores of the process: gigabytes a second from memory,
// and billions of operations a second (a multiply-add is two). Prints one JSON object; what the
// processor has no instructions for is left out. Built and run by limits.py:
// g++ -O3 -march=native -fopenmp limits.cpp

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t kWeightBytes = 92 << 20;  // the built-in model's weights in 4 bits
constexpr int64_t kLargeBytes = int64_t{1} << 30;
constexpr int kRepeats = 40;  // short and many: on a busy machine one may be undisturbed
constexpr int kAccumulators = 12;  // chains hide the latency: up to 6 cycles, 2 units
constexpr int64_t kIterations = 1'000'000;

// Sums keep the compiler from leaving the work out.
volatile uint64_t sink;

double read_gigabytes(const uint64_t* data, int64_t num_bytes, int repeats) {
  const int64_t count = num_bytes / 8;
  double best = 1e30;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    uint64_t sum = 0;
    const double started = omp_get_wtime();
#pragma omp parallel for simd schedule(static) reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) sum += data[i];
    best = std::min(best, omp_get_wtime() - started);
    sink = sum;
  }
  return num_bytes / best / 1e9;
}

#if defined(__AVX512F__) || defined(__AVX2__)
// `step` does one multiply-add instruction of `ops_per_step` operations on the accumulator it gets.
template <class Vector, class Step>
double giga_ops(double ops_per_step, Vector zero, Step step) {
  double best = 1e30;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const double started = omp_get_wtime();
#pragma omp parallel
    {
      Vector a = zero, b = zero, c = zero, d = zero, e = zero, f = zero;
      Vector g = zero, h = zero, j = zero, k = zero, l = zero, m = zero;
      for (int64_t i = 0; i < kIterations; ++i) {
        a = step(a), b = step(b), c = step(c), d = step(d), e = step(e), f = step(f);
        g = step(g), h = step(h), j = step(j), k = step(k), l = step(l), m = step(m);
        // As if something used them: what is computed is computed in every turn.
        asm volatile("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f));
        asm volatile("" : "+x"(g), "+x"(h), "+x"(j), "+x"(k), "+x"(l), "+x"(m));
      }
    }
    best = std::min(best, omp_get_wtime() - started);
  }
  return ops_per_step * kAccumulators * kIterations * omp_get_max_threads() / best / 1e9;
}
#endif

void print(const char* name, double value) { std::printf(", \"%s\": %.1f", name, value); }

}  // namespace

int main() {
  std::printf("{\"cores\": %d", omp_get_max_threads());
  {
    std::unique_ptr<uint64_t[]> data(new uint64_t[kLargeBytes / 8]);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < kLargeBytes / 8; ++i) data[i] = i;  // real pages, near their readers
    print("memory_gb_s", read_gigabytes(data.get(), kLargeBytes, 4));
    print("memory_92mb_gb_s", read_gigabytes(data.get(), kWeightBytes, kRepeats));
  }
#if defined(__AVX512VNNI__)
  const __m512i ones = _mm512_set1_epi8(1);
  print("int8_gops", giga_ops(128, _mm512_setzero_si512(),
                              [&](__m512i a) { return _mm512_dpbusd_epi32(a, ones, ones); }));
#elif defined(__AVXVNNI__)
  const __m256i ones = _mm256_set1_epi8(1);
  print("int8_gops", giga_ops(64, _mm256_setzero_si256(),
                              [&](__m256i a) { return _mm256_dpbusd_avx_epi32(a, ones, ones); }));
#endif
#if defined(__AVX512BF16__)
  const __m512bh halves = (__m512bh)_mm512_set1_epi16(0x3f80);  // 1.0
  print("bf16_gflops", giga_ops(64, _mm512_setzero_ps(),
                                [&](__m512 a) { return _mm512_dpbf16_ps(a, halves, halves); }));
#endif
#if defined(__AVX512F__)
  const __m512 one = _mm512_set1_ps(1.0f);
  print("fp32_gflops", giga_ops(32, _mm512_setzero_ps(),
                                [&](__m512 a) { return _mm512_fmadd_ps(one, one, a); }));
#elif defined(__FMA__)
  const __m256 one = _mm256_set1_ps(1.0f);
  print("fp32_gflops", giga_ops(16, _mm256_setzero_ps(),
                                [&](__m256 a) { return _mm256_fmadd_ps(one, one, a); }));
#endif
  std::printf("}\n");
}
