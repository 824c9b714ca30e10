#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace gllm {
namespace {

// One word holds a job's claims: | chunks 32 | next 32 |. A claim is one fetch_add, which also shows whether the chunk
// exists. So helpers need no lock and may arrive arbitrarily late: a successful claim keeps its job alive, because the
// caller returns only when every chunk is done.
constexpr int kBits = 32;
constexpr uint64_t kMask = (uint64_t{1} << kBits) - 1;
constexpr int64_t kMaxChunks = int64_t{1} << (kBits - 1);

// A decode step issues an operation every few microseconds. Helpers first spin, then yield their core to other
// processes between looks, then sleep until they are woken, so an idle server uses no CPU.
constexpr auto kSpin = std::chrono::microseconds(30);
constexpr auto kYield = std::chrono::microseconds(120);
constexpr int kCallerSpins = 2000;  // some tens of microseconds: longer than an even share of a chunk

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
 public:
  explicit Pool(int helpers) {
    for (int i = 0; i < helpers; ++i) threads_.emplace_back([this] { help(); });
  }

  ~Pool() {
    stop_.store(true);
    wake();
    for (auto& thread : threads_) thread.join();
  }

  int helpers() const { return static_cast<int>(threads_.size()); }

  void run(int64_t chunks, ChunkFn fn, const void* context) {
    fn_ = fn;
    context_ = context;
    done_.store(0, std::memory_order_relaxed);
    claims_.store(static_cast<uint64_t>(chunks) << kBits);
    if (sleepers_.load() > 0) wake();
    while (claim_one()) {
    }
    for (int spins = 0; spins < kCallerSpins && done_.load() < chunks; ++spins) relax();
    if (done_.load() < chunks) wait_for(chunks);
  }

 private:
  // The helper with the last chunk has lost its core to another process and may wait for this core. The kernel moves it
  // here at once only if this core goes idle. Yielding is not enough, and a time slice of the other process takes
  // milliseconds.
  void wait_for(int64_t chunks) {
    std::unique_lock<std::mutex> lock(mutex_);
    caller_waits_.store(true);
    finished_.wait(lock, [&] { return done_.load() >= chunks; });
    caller_waits_.store(false);
  }

  bool pending() const {
    const uint64_t claims = claims_.load();
    return (claims & kMask) < (claims >> kBits);
  }

  bool claim_one() {
    if (!pending()) return false;  // keeps fetch_add from running past the counter's bits
    const uint64_t claims = claims_.fetch_add(1, std::memory_order_acq_rel);
    const uint64_t chunk = claims & kMask;
    if (chunk >= (claims >> kBits)) return false;
    fn_(context_, static_cast<int64_t>(chunk));
    done_.fetch_add(1);
    if (caller_waits_.load()) {
      std::lock_guard<std::mutex> lock(mutex_);
      finished_.notify_one();
    }
    return true;
  }

  void wake() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ++epoch_;
    }
    condition_.notify_all();
  }

  void help() {
    auto idle_since = std::chrono::steady_clock::now();
    while (!stop_.load(std::memory_order_relaxed)) {
      bool worked = false;
      while (claim_one()) worked = true;
      const auto now = std::chrono::steady_clock::now();
      if (worked) idle_since = now;
      const auto idle = now - idle_since;
      if (idle < kSpin) {
        for (int i = 0; i < 16 && !pending(); ++i) relax();
      } else if (idle < kYield) {
        sched_yield();
      } else {
        sleep();
        idle_since = std::chrono::steady_clock::now();
      }
    }
  }

  // Announces the sleeper before it looks for work a last time; run() publishes work before it looks for sleepers.
  void sleep() {
    std::unique_lock<std::mutex> lock(mutex_);
    const uint64_t epoch = epoch_;
    sleepers_.fetch_add(1);
    if (!pending() && !stop_.load()) condition_.wait(lock, [&] { return epoch_ != epoch; });
    sleepers_.fetch_sub(1);
  }

  alignas(64) std::atomic<uint64_t> claims_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  ChunkFn fn_ = nullptr;
  const void* context_ = nullptr;
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable condition_;
  std::condition_variable finished_;
  std::atomic<bool> caller_waits_{false};
  uint64_t epoch_ = 0;
  std::vector<std::thread> threads_;
};

std::mutex g_owner;  // held by the one caller that has the helpers
Pool* g_pool = nullptr;
std::atomic<int> g_threads{1};

// A forked child has none of its parent's threads: it forgets the pool (joining is impossible) and makes its own.
void after_fork_in_child() {
  g_pool = nullptr;
  new (&g_owner) std::mutex();
}

const int g_fork_handler = pthread_atfork(nullptr, nullptr, after_fork_in_child);

}  // namespace

void parallel_for(int64_t chunks, ChunkFn fn, const void* context) {
  const int threads = g_threads.load(std::memory_order_relaxed);
  if (chunks > 1 && threads > 1 && chunks < kMaxChunks) {
    std::unique_lock<std::mutex> lock(g_owner, std::try_to_lock);
    if (lock.owns_lock()) {
      if (g_pool == nullptr || g_pool->helpers() != threads - 1) {
        delete g_pool;
        g_pool = new Pool(threads - 1);
      }
      g_pool->run(chunks, fn, context);
      return;
    }
  }
  for (int64_t chunk = 0; chunk < chunks; ++chunk) fn(context, chunk);
}

void set_num_threads(int threads) {
  (void)g_fork_handler;
  g_threads.store(threads < 1 ? 1 : threads);
}

int num_threads() { return g_threads.load(); }

void* thread_scratch(size_t bytes) {
  struct Buffer {
    void* data = nullptr;
    size_t size = 0;
    ~Buffer() { std::free(data); }
  };
  thread_local Buffer buffer;
  if (buffer.size < bytes) {
    std::free(buffer.data);
    buffer.size = (bytes + 4095) / 4096 * 4096;
    buffer.data = std::aligned_alloc(64, buffer.size);
    if (buffer.data == nullptr) std::abort();
  }
  return buffer.data;
}

}  // namespace gllm
