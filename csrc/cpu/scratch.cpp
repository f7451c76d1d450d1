#include "scratch.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

namespace futurefill {
namespace {

constexpr int64_t kPage = 4096;

}  // namespace

int64_t whole_pages(int64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

namespace {

struct Memory {
  void* data = nullptr;
  int64_t bytes = 0;
};

Memory allocate(int64_t bytes) {
  const int64_t rounded = whole_pages(bytes);
  void* data = std::aligned_alloc(kPage, rounded);
  if (!data) {
    throw std::runtime_error("cannot allocate " + std::to_string(rounded) +
                             " bytes of scratch memory");
  }
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
