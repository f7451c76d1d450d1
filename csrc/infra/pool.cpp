#include "infra/pool.h"

#include <pthread.h>
#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace futurefill {
namespace {

// Turns of waiting before a worker sleeps, about 0.3 ms: longer than the gap between two tokens.
constexpr int kSpins = 20000;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

using Clock = std::chrono::steady_clock;

// A worker that keeps a call waiting for a third as long as its own piece took has lost its core to
// other programs: calls do without workers for a while, twice as long each time until it goes well
// again.
constexpr Clock::duration kAlone = std::chrono::milliseconds(1), kMostAlone = 64 * kAlone;

// Keeps a worker off the core of the thread it works for: a worker that spins there, or is woken
// there, would take turns with it.
class Elsewhere {
 public:
  static int current_cpu() {
#ifdef __linux__
    return sched_getcpu();
#else
    return -1;
#endif
  }

  // of the calling thread; does nothing while the core stays the same or where there is no other
  void avoid(int cpu) {
    if (cpu == avoided_) return;
    avoided_ = cpu;
#ifdef __linux__
    if (!known_ && sched_getaffinity(0, sizeof allowed_, &allowed_) != 0) return;
    known_ = true;
    cpu_set_t others = allowed_;
    if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_CLR(cpu, &others);
    if (CPU_COUNT(&others) > 0) sched_setaffinity(0, sizeof others, &others);
#endif
  }

 private:
  int avoided_ = -1;
#ifdef __linux__
  bool known_ = false;
  cpu_set_t allowed_;  // to the thread when it was made
#endif
};

// piece(context, index); failure is what it threw, if it did
void run_piece(Piece piece, const void* context, int64_t index, std::exception_ptr& failure) {
  try {
    piece(context, index);
  } catch (...) {
    failure = std::current_exception();
  }
}

enum State : int { kIdle, kOffered, kRunning };

struct alignas(64) Worker {
  // one cache line passes from the caller to the worker: the state, and what is written while it is
  // idle and read by whoever moves it away from kOffered
  std::atomic<int> state{kIdle};
  std::atomic<int> caller_cpu{-1};
  Piece piece = nullptr;
  const void* context = nullptr;
  int64_t index = 0;

  alignas(64) std::atomic<bool> asleep{false};
  std::mutex mutex;
  std::condition_variable wake;
  Elsewhere place;
  std::exception_ptr failure;

  void offer(Piece p, const void* c, int64_t i, int cpu) {
    piece = p, context = c, index = i;
    caller_cpu.store(cpu, std::memory_order_relaxed);
    state.store(kOffered);
    if (!asleep.load()) return;
    const std::lock_guard<std::mutex> lock(mutex);
    wake.notify_one();
  }

  bool claim(State to) {
    int offered = kOffered;
    return state.compare_exchange_strong(offered, to);
  }

  void wait_for_work() {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (state.load(std::memory_order_relaxed) == kOffered) return;
      place.avoid(caller_cpu.load(std::memory_order_relaxed));
      pause();
    }
    std::unique_lock<std::mutex> lock(mutex);
    asleep.store(true);
    wake.wait(lock, [this] { return state.load() == kOffered; });
    asleep.store(false);
  }

  void loop() {
    for (;;) {
      wait_for_work();
      if (!claim(kRunning)) continue;
      for (int line = 0; line < 4; ++line) {
        __builtin_prefetch(static_cast<const char*>(context) + 64 * line);
      }
      run_piece(piece, context, index, failure);
      state.store(kIdle, std::memory_order_release);
    }
  }

  // Takes the piece back if the worker has not begun, as on a busy machine; else waits for its end.
  // Returns whether the wait after a while of spinning was longer than a third of all before it.
  bool finish(Clock::time_point begin) {
    if (claim(kIdle)) {
      run_piece(piece, context, index, failure);
      return false;
    }
    for (int spin = 0; spin < kSpins; ++spin) {
      if (state.load(std::memory_order_acquire) == kIdle) return false;
      pause();
    }
    const auto patient = Clock::now();
    while (state.load(std::memory_order_acquire) != kIdle) std::this_thread::yield();
    return 3 * (Clock::now() - patient) > patient - begin;
  }
};

struct Pool {
  std::mutex in_use;
  std::vector<Worker*> workers;  // never freed: their threads run until the process ends
  Clock::time_point alone_until{};
  Clock::duration alone_next = kAlone;

  void be_alone() {
    alone_until = Clock::now() + alone_next;
    alone_next = std::min(2 * alone_next, kMostAlone);
  }

  // Whether there are so many, which the system may refuse.
  bool has(int64_t count) {
    try {
      while (static_cast<int64_t>(workers.size()) < count) {
        auto worker = std::make_unique<Worker>();
        workers.reserve(workers.size() + 1);
        std::thread(&Worker::loop, worker.get()).detach();
        workers.push_back(worker.release());
      }
      return true;
    } catch (const std::exception&) {
      be_alone();
      return false;
    }
  }
};

std::atomic<Pool*> current{nullptr};

Pool& pool() {
  static const bool registered = [] {
    current = new Pool;
    // the threads of the parent do not exist in the child
    pthread_atfork(nullptr, nullptr, [] { current = new Pool; });
    return true;
  }();
  (void)registered;
  return *current;
}

}  // namespace

void run_pieces(int64_t count, Piece piece, const void* context) {
  Pool& p = pool();
  std::unique_lock<std::mutex> lock(p.in_use, std::try_to_lock);
  const auto begin = Clock::now();
  std::exception_ptr failure;
  if (count < 2 || !lock.owns_lock() || begin < p.alone_until || !p.has(count - 1)) {
    for (int64_t i = 0; i < count; ++i) run_piece(piece, context, i, failure);
    if (failure) std::rethrow_exception(failure);
    return;
  }
  const int cpu = Elsewhere::current_cpu();
  for (int64_t i = 1; i < count; ++i) p.workers[i - 1]->offer(piece, context, i, cpu);
  bool late = false;
  run_piece(piece, context, 0, failure);
  for (int64_t i = 1; i < count; ++i) {
    Worker& worker = *p.workers[i - 1];
    late |= worker.finish(begin);
    if (worker.failure) failure = worker.failure;
    worker.failure = nullptr;
  }
  if (late) {
    p.be_alone();
  } else {
    p.alone_next = std::max(p.alone_next / 2, kAlone);
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace futurefill
