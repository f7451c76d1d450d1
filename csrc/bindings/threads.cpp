#include "bindings/threads.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace futurefill {
namespace {

// -1 where the variable is not set
int64_t threads_from_environment() {
  const char* text = std::getenv("FUTUREFILL_NUM_THREADS");
  if (!text || !*text) return -1;
  char* end;
  const long threads = std::strtol(text, &end, 10);
  if (*end || threads < 1) {
    throw std::runtime_error("FUTUREFILL_NUM_THREADS: expected a number of at least 1, got '" +
                             std::string(text) + "'");
  }
  return threads;
}

}  // namespace

int64_t thread_count() {
  static const int64_t forced = threads_from_environment();
  const int64_t threads = torch::stable::get_num_threads();
  return forced > 0 ? std::min(forced, threads) : threads;
}

}  // namespace futurefill
