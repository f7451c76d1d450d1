// Memory that an operation works in and leaves behind.
#pragma once

#include <cstdint>

namespace futurefill {

// Page-aligned memory of one operation. Throws std::runtime_error where there is too little.
struct PageMemory {
  explicit PageMemory(int64_t bytes);
  PageMemory(const PageMemory&) = delete;
  PageMemory& operator=(const PageMemory&) = delete;
  ~PageMemory();
  void* data;
};

// This thread's scratch memory, at least `bytes`, 4096-byte aligned; kept until the thread ends.
// Where the thread has less it takes what was reserved, or else allocates.
void* thread_scratch(int64_t bytes);

// Sees to it that as many threads find that much without allocating: what threads have counts.
// Returns the bytes of all of it.
int64_t reserve_scratch(int64_t bytes, int64_t threads);

}  // namespace futurefill
