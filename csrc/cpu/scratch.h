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
void reserve_scratch(int64_t bytes, int64_t threads);

// Bytes of the pages that so many take.
int64_t whole_pages(int64_t bytes);

}  // namespace futurefill
