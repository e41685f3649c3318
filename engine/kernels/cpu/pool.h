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
    num_threads = std::min(num_threads, kMostThreads);
    while (int(helpers_.size()) < num_threads - 1)
      helpers_.emplace_back(&Pool::help, this, int(helpers_.size()) + 1);
    body_ = body;
    context_ = context;
    num_threads_ = num_threads;
    num_done_ = 0;
    const uint64_t number = ++generation_ << 48;
    for (uint64_t i = 0; i < uint64_t(num_threads); i++)
      shares_[i].parts = number | count * (i + 1) / num_threads << 24 | count * i / num_threads;
    published_ = generation_;
    if (num_asleep_ > 0) {
      std::lock_guard lock(mutex_);
      wake_.notify_all();
    }
    while (work(0)) {
    }
    for (int spins = 0; num_done_.load(std::memory_order_acquire) < count;)
      if (++spins < kSpins) pause();
      else std::this_thread::yield();
  }

 private:
  // The parts of the present loop that nobody has taken of those meant for one thread. They lie side
  // by side, as what they read does in memory: a thread takes its own from the first on, and when
  // there are none, another's from the last.
  struct alignas(64) Share {
    std::atomic<uint64_t> parts{0};  // the loop's number (16 bits), end, next (24 bits each)

    static uint64_t next(uint64_t parts) { return parts & 0xffffff; }
    static uint64_t end(uint64_t parts) { return parts >> 24 & 0xffffff; }
    bool is_empty() const { return next(parts) >= end(parts); }

    // The part, or -1.
    int take(bool from_front) {
      uint64_t now = parts.load(), later;
      do {
        if (next(now) >= end(now)) return -1;
        later = from_front ? now + 1 : now - (1 << 24);
      } while (!parts.compare_exchange_weak(now, later));
      return from_front ? next(now) : end(now) - 1;
    }
  };

  // Takes and does one part of the present loop; false if none is left. A part that was taken keeps
  // `run` from returning, so what it reads then belongs to this loop.
  bool work(int index) {
    int part = shares_[index].take(true);
    for (int i = 1, count = num_threads_; part < 0 && i < count; i++)
      part = shares_[(index + i) % count].take(false);
    if (part < 0) return false;
    body_(context_, part);
    num_done_.fetch_add(1, std::memory_order_release);
    return true;
  }

  bool has_work() const {
    return std::any_of(shares_, shares_ + num_threads_, [](const Share& s) { return !s.is_empty(); });
  }

  void help(int index) {
    for (int spins = 0;;) {
      if (index < num_threads_ && work(index)) {
        spins = 0;
      } else if (++spins < kSpins) {
        pause();
      } else {
        std::unique_lock lock(mutex_);
        num_asleep_++;
        const uint64_t seen = published_;
        if (index >= num_threads_ || !has_work())
          wake_.wait(lock, [&] { return published_ != seen; });
        num_asleep_--;
        spins = 0;
      }
    }
  }

  static constexpr int kMostThreads = 512;
  Share shares_[kMostThreads];
  std::atomic<int> num_done_{0}, num_asleep_{0}, num_threads_{0};
  std::atomic<uint64_t> published_{0};  // the number of the last loop
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
