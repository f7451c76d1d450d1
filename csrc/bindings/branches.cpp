#include "bindings/branches.h"

#include <new>

#include "infra/branches.h"

using futurefill::Branches;

namespace {

template <class F>
auto unless_no_memory(F&& call, decltype(call()) otherwise) noexcept {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return otherwise;
  }
}

}  // namespace

Branches* futurefill_branches(int64_t batch_size) noexcept {
  return unless_no_memory([&] { return new Branches(batch_size); }, nullptr);
}

Branches* futurefill_branches_copy(const Branches* branches) noexcept {
  return unless_no_memory([&] { return new Branches(*branches); }, nullptr);
}

void futurefill_branches_delete(Branches* branches) noexcept { delete branches; }

void futurefill_branches_renew(Branches* branches, const int64_t* rows, int64_t n) noexcept {
  branches->renew(rows, n);
}

void futurefill_branches_crop(Branches* branches, const int64_t* rows, const int64_t* positions,
                              int64_t n) noexcept {
  branches->crop(rows, positions, n);
}

void futurefill_branches_reorder(Branches* branches, const int64_t* rows,
                                 const int64_t* positions) noexcept {
  branches->reorder(rows, positions);
}

int64_t futurefill_branches_common(const Branches* branches, int64_t row, int64_t other) noexcept {
  return branches->common(row, other);
}
