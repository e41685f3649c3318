// Loops over several threads: torch's own (OpenMP), or ours where no product is left to torch.
//
// OpenMP's threads must all arrive at the end of every loop: where another program has one of the
// cores, each loop waits for the scheduler. Of ours, one that is not running takes no part, and
// nobody waits for it unless it holds a part of the work.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace {

// How often a thread without work looks for some before it sleeps; about 0.1 ms.
constexpr int kSpins = 4000;
// Parts of a loop for each thread, so that the last ones to finish are not far apart.
constexpr int kPartsPerThread = 8;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
 public:
  // Two sets of threads that both wait by looking for work would be in each other's way.
  static bool& is_used() {
    static bool used = false;
    return used;
  }

  static Pool& instance() {
    static Pool* pool = new Pool;  // never destroyed: its threads end with the process
    return *pool;
  }

  // body(context, 0) to body(context, count - 1), by at most num_threads threads. Not reentrant;
  // called by one thread at a time.
  void run(int count, int num_threads, void (*body)(const void*, int), const void* context) {
    while (int(helpers_.size()) < num_threads - 1)
      helpers_.emplace_back(&Pool::help, this, int(helpers_.size()));
    body_ = body;
    context_ = context;
    num_helpers_ = num_threads - 1;
    num_done_ = 0;
    generation_++;
    tickets_ = generation_ << 48 | uint64_t(count) << 24;
    if (num_asleep_ > 0) {
      std::lock_guard lock(mutex_);
      wake_.notify_all();
    }
    while (work()) {
    }
    for (int spins = 0; num_done_.load(std::memory_order_acquire) < count;)
      if (++spins < kSpins) pause();
      else std::this_thread::yield();
  }

 private:
  // Takes and does one part of the present loop; false if none is left. A part that was taken keeps
  // `run` from returning, so what it reads then belongs to this loop.
  bool work() {
    uint64_t ticket = tickets_.load();
    do {
      if ((ticket & kPart) >= (ticket >> 24 & kPart)) return false;
    } while (!tickets_.compare_exchange_weak(ticket, ticket + 1));
    body_(context_, ticket & kPart);
    num_done_.fetch_add(1, std::memory_order_release);
    return true;
  }

  void help(int index) {
    for (int spins = 0;;) {
      if (index < num_helpers_ && work()) {
        spins = 0;
      } else if (++spins < kSpins) {
        pause();
      } else {
        std::unique_lock lock(mutex_);
        num_asleep_++;
        const uint64_t seen = tickets_ >> 48;
        const uint64_t ticket = tickets_;
        if ((ticket & kPart) >= (ticket >> 24 & kPart) || index >= num_helpers_)
          wake_.wait(lock, [&] { return tickets_ >> 48 != seen; });
        num_asleep_--;
        spins = 0;
      }
    }
  }

  static constexpr uint64_t kPart = (1 << 24) - 1;
  // The loop's number (16 bits), how many parts it has, how many are taken (24 bits each).
  std::atomic<uint64_t> tickets_{0};
  std::atomic<int> num_done_{0}, num_asleep_{0}, num_helpers_{0};
  uint64_t generation_ = 0;
  void (*body_)(const void*, int) = nullptr;
  const void* context_ = nullptr;
  std::vector<std::thread> helpers_;
  std::mutex mutex_;
  std::condition_variable wake_;
};

// body(0) to body(count - 1), in any order. Threads take `share` of them at a time, 0: as is best.
template <class Body>
void parallel(int64_t count, int num_threads, const Body& body, int64_t share = 0) {
  if (num_threads <= 1 || count <= 1) {
    for (int64_t i = 0; i < count; i++) body(i);
    return;
  }
  if (!Pool::is_used()) {
    if (share == 0) share = (count + num_threads - 1) / num_threads;
#pragma omp parallel for schedule(static, share) num_threads(num_threads)
    for (int64_t i = 0; i < count; i++) body(i);
    return;
  }
  if (share == 0) share = std::max<int64_t>(1, count / (num_threads * kPartsPerThread));
  const int64_t num_parts = (count + share - 1) / share;
  const auto part = [&](int64_t index) {
    const int64_t end = std::min(count, (index + 1) * share);
    for (int64_t i = index * share; i < end; i++) body(i);
  };
  using Part = decltype(part);
  Pool::instance().run(
      num_parts, num_threads,
      [](const void* context, int index) { (*(const Part*)context)(index); }, &part);
}

}  // namespace
