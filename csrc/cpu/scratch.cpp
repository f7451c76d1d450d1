#include "scratch.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

namespace futurefill {
namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t kHugePage = 2 << 20;

// Large memory is on huge pages where the system has them: making small ones takes longer than a
// transform of what they hold.
int64_t page_of(int64_t bytes) { return bytes < 2 * kHugePage ? kPage : kHugePage; }

}  // namespace

int64_t whole_pages(int64_t bytes) {
  const int64_t page = page_of(bytes);
  return (bytes + page - 1) / page * page;
}

namespace {

struct Memory {
  void* data = nullptr;
  int64_t bytes = 0;
};

Memory allocate(int64_t bytes) {
  const int64_t page = page_of(bytes), rounded = whole_pages(bytes);
  void* data = std::aligned_alloc(page, rounded);
  if (!data) {
    throw std::runtime_error("cannot allocate " + std::to_string(rounded) +
                             " bytes of scratch memory");
  }
#ifdef MADV_HUGEPAGE
  if (page == kHugePage) madvise(data, rounded, MADV_HUGEPAGE);
#endif
  return {data, rounded};
}

// All memory of threads, and what is reserved for them. Never destroyed: threads end later.
struct Shared {
  std::mutex mutex;
  std::vector<const Memory*> held;
  std::vector<Memory> reserved;
};

Shared& shared() {
  static auto* all = new Shared;
  return *all;
}

// A thread's own.
struct Own {
  Memory memory;

  Own() {
    const std::lock_guard<std::mutex> lock(shared().mutex);
    shared().held.push_back(&memory);
  }

  ~Own() {
    const std::lock_guard<std::mutex> lock(shared().mutex);
    auto& held = shared().held;
    held.erase(std::find(held.begin(), held.end(), &memory));
    std::free(memory.data);
  }

  void grow(int64_t bytes) {
    const std::lock_guard<std::mutex> lock(shared().mutex);
    auto& reserved = shared().reserved;
    const auto found = std::find_if(reserved.begin(), reserved.end(),
                                    [&](const Memory& m) { return m.bytes >= bytes; });
    const Memory larger = found == reserved.end() ? allocate(bytes) : *found;
    if (found != reserved.end()) reserved.erase(found);
    std::free(memory.data);
    memory = larger;
  }
};

}  // namespace

PageMemory::PageMemory(int64_t bytes) : data(allocate(bytes).data) {}

PageMemory::~PageMemory() { std::free(data); }

void* thread_scratch(int64_t bytes) {
  thread_local Own own;
  if (own.memory.bytes < bytes) own.grow(bytes);
  return own.memory.data;
}

void reserve_scratch(int64_t bytes, int64_t threads) {
  if (bytes == 0) return;
  const std::lock_guard<std::mutex> lock(shared().mutex);
  auto& reserved = shared().reserved;
  const auto enough = [&](const Memory& m) { return m.bytes >= bytes; };
  int64_t there = std::count_if(reserved.begin(), reserved.end(), enough);
  for (const Memory* m : shared().held) there += enough(*m);
  for (Memory& m : reserved) {  // smaller ones make way
    if (there >= threads || enough(m)) continue;
    const Memory larger = allocate(bytes);
    std::free(m.data);
    m = larger, ++there;
  }
  for (; there < threads; ++there) reserved.push_back(allocate(bytes));
}

}  // namespace futurefill
