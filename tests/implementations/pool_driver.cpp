// The worker pool without torch, for sanitizer builds (tests/sanitize.sh); exits 1 when it is
// wrong.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <vector>

#include "infra/pool.h"

using futurefill::run_pieces;

struct Job {
  std::vector<int64_t> cells;  // written without atomics: one piece per cell
  int64_t failing = -1;

  void run(int64_t count) {
    run_pieces(
        count,
        [](const void* context, int64_t i) {
          auto& job = *static_cast<Job*>(const_cast<void*>(context));
          if (i == job.failing) throw std::runtime_error("a piece failed");
          job.cells[i] += i + 1;
        },
        this);
  }
};

// Every piece of every call ran exactly once, and the caller sees what it wrote.
bool all_pieces_run(int64_t calls, int64_t count) {
  Job job{std::vector<int64_t>(count)};
  for (int64_t call = 1; call <= calls; ++call) {
    job.run(count);
    for (int64_t i = 0; i < count; ++i) {
      if (job.cells[i] != call * (i + 1)) return false;
    }
  }
  return true;
}

bool failures_arrive() {
  for (int64_t failing = 0; failing < 3; ++failing) {
    Job job{std::vector<int64_t>(3), failing};
    try {
      job.run(3);
      return false;
    } catch (const std::runtime_error&) {
    }
    job.failing = -1;
    job.run(3);
    for (int64_t i = 0; i < 3; ++i) {
      if (job.cells[i] != (i == failing ? 1 : 2) * (i + 1)) return false;
    }
  }
  return true;
}

// A call inside a call finds no workers.
bool failures_arrive_without_workers() {
  bool good = false;
  run_pieces(
      2,
      [](const void* context, int64_t i) {
        if (i == 0) *static_cast<bool*>(const_cast<void*>(context)) = failures_arrive();
      },
      &good);
  return good;
}

bool callers_side_by_side() {
  std::atomic<bool> good{true};
  std::vector<std::thread> callers;
  for (int64_t c = 0; c < 3; ++c) {
    callers.emplace_back([&, c] {
      if (!all_pieces_run(2000, 2 + c)) good = false;
    });
  }
  for (auto& caller : callers) caller.join();
  return good;
}

bool sleepers_wake() {
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    if (!all_pieces_run(10, 3)) return false;
  }
  return true;
}

bool child_has_workers() {
#ifdef __SANITIZE_THREAD__
  return true;  // it does not follow a fork with threads
#else
  const pid_t child = fork();
  if (child == 0) _exit(all_pieces_run(100, 3) ? 0 : 1);
  int status = 1;
  waitpid(child, &status, 0);
  return status == 0 && all_pieces_run(100, 3);
#endif
}

int main() {
  const bool good = all_pieces_run(3000, 1) && all_pieces_run(3000, 2) && all_pieces_run(3000, 5) &&
                    failures_arrive() && failures_arrive_without_workers() &&
                    callers_side_by_side() && sleepers_wake() && child_has_workers();
  std::printf("%s\n", good ? "every piece ran once" : "wrong");
  return good ? 0 : 1;
}
