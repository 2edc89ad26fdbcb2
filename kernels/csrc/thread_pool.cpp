#include "thread_pool.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif

namespace quire {
namespace {

// How long a worker without work keeps looking before it sleeps: the gap between two kernels of a step is
// shorter, the gap between two steps of a loaded engine mostly too.
constexpr auto kSpin = std::chrono::microseconds(50);

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

int available_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count ? static_cast<int>(count) : 1;
}

class ThreadPool {
 public:
  explicit ThreadPool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }

  ~ThreadPool() {
    {
      const std::lock_guard<std::mutex> lock(sleep_mutex_);
      stopping_.store(true);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  void run(std::int64_t tasks, void (*body)(const void*, std::int64_t), const void* context) {
    tasks_ = tasks;
    body_ = body;
    context_ = context;
    error_ = nullptr;
    next_.store(0, std::memory_order_relaxed);
    state_.fetch_add(kRound | kOpen);  // publishes the fields above
    if (sleepers_.load() > 0) {
      // Taking the mutex orders this wake-up after the sleeper's last look at the state.
      { const std::lock_guard<std::mutex> lock(sleep_mutex_); }
      wake_.notify_all();
    }
    take_tasks();
    state_.fetch_and(~kOpen);  // from here on nobody enters
    for (int spins = 0; (state_.load(std::memory_order_acquire) & kInside) != 0; ++spins) {
      if (spins < 4096) {
        pause();
      } else {
        std::this_thread::yield();  // more threads than cores: let the last worker run
      }
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  // state_: the number of workers inside the loop, whether the loop is open to workers, and a round number
  // by which a worker tells a new loop from the one it has just left.
  static constexpr std::uint64_t kInside = 0xffff, kOpen = 0x10000, kRound = 0x20000;

  void take_tasks() {
    for (;;) {
      const std::int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
      if (task >= tasks_) return;
      try {
        body_(context_, task);
      } catch (...) {
        next_.store(tasks_, std::memory_order_relaxed);
        const std::lock_guard<std::mutex> lock(error_mutex_);
        if (!error_) error_ = std::current_exception();
      }
    }
  }

  void work() {
    std::uint64_t last_round = 0;
    while (wait_for_loop(last_round)) {
      const std::uint64_t before = state_.fetch_add(1);  // enter
      if ((before & kOpen) != 0) {
        last_round = before / kRound;
        take_tasks();
      }
      state_.fetch_sub(1, std::memory_order_release);  // leave
    }
  }

  bool has_loop(std::uint64_t last_round) const {
    const std::uint64_t state = state_.load();
    return (state & kOpen) != 0 && state / kRound != last_round;
  }

  // Returns true when a new loop is open, false when the pool ends.
  bool wait_for_loop(std::uint64_t last_round) {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < 64; ++i) {
        if (has_loop(last_round)) return true;
        pause();
      }
    } while (!stopping_.load() && std::chrono::steady_clock::now() < deadline);
    std::unique_lock<std::mutex> lock(sleep_mutex_);
    sleepers_.fetch_add(1);
    wake_.wait(lock, [&] { return stopping_.load() || has_loop(last_round); });
    sleepers_.fetch_sub(1);
    return !stopping_.load();
  }

  alignas(64) std::atomic<std::uint64_t> state_{0};
  alignas(64) std::atomic<std::int64_t> next_{0};
  alignas(64) std::int64_t tasks_ = 0;
  void (*body_)(const void*, std::int64_t) = nullptr;
  const void* context_ = nullptr;
  std::mutex error_mutex_;
  std::exception_ptr error_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::mutex sleep_mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

// The pool and the right to use it. It is never destroyed: at process exit the workers just end. A child of
// fork() has none of its parent's threads, so it gets a new one of these and the old is left as it lies.
struct Owner {
  std::atomic<bool> busy{false};  // set while a loop runs; not a mutex, since a task may ask from within
  ThreadPool* pool = nullptr;
};

// Holds an Owner, if it was free.
class Hold {
 public:
  explicit Hold(Owner& owner) : owner_(owner), held_(!owner.busy.exchange(true, std::memory_order_acquire)) {}
  ~Hold() {
    if (held_) owner_.busy.store(false, std::memory_order_release);
  }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;
  explicit operator bool() const { return held_; }

 private:
  Owner& owner_;
  bool held_;
};

std::atomic<int> wanted_threads{0};
std::atomic<Owner*> owner{nullptr};

void forget_after_fork() { owner.store(new Owner); }

Owner& current_owner() {
  static const bool registered = [] {
    owner.store(new Owner);
    return pthread_atfork(nullptr, nullptr, forget_after_fork) == 0;
  }();
  (void)registered;
  return *owner.load();
}

struct Buffer {
  void* data = nullptr;
  std::size_t size = 0;
  ~Buffer() { std::free(data); }
};

}  // namespace

int num_threads() {
  int count = wanted_threads.load();
  if (count == 0) {
    count = available_cores();
    wanted_threads.store(count);
  }
  return count;
}

void set_num_threads(int count) {
  if (count < 1) throw std::invalid_argument("num_threads must be at least 1, got " + std::to_string(count));
  Owner& own = current_owner();
  for (;;) {
    const Hold hold(own);
    if (!hold) {
      std::this_thread::yield();  // a loop is running; it ends soon
      continue;
    }
    if (count != num_threads()) {
      delete own.pool;
      own.pool = nullptr;
    }
    wanted_threads.store(count);
    return;
  }
}

void run_tasks(std::int64_t tasks, void (*body)(const void*, std::int64_t), const void* context) {
  if (tasks > 1 && num_threads() > 1) {
    Owner& own = current_owner();
    if (const Hold hold(own); hold) {
      if (!own.pool) own.pool = new ThreadPool(num_threads());
      own.pool->run(tasks, body, context);
      return;
    }
  }
  for (std::int64_t task = 0; task < tasks; ++task) body(context, task);
}

void* thread_scratch(int slot, std::size_t bytes) {
  thread_local Buffer buffers[4];
  Buffer& buffer = buffers[slot];
  if (bytes > buffer.size) {
    std::free(buffer.data);
    buffer.size = 0;
    const std::size_t rounded = (bytes + 4095) / 4096 * 4096;
    buffer.data = std::aligned_alloc(64, rounded);
    if (!buffer.data) throw std::bad_alloc();
    buffer.size = rounded;
  }
  return buffer.data;
}

}  // namespace quire
