// Where rows of a stream parted (infra/branches.h), as Python holds it: calls shorter than a
// tensor's making.
#pragma once

#include <cstdint>

namespace futurefill {
class Branches;
}

// Of so many rows, or a copy; null where there is no memory.
extern "C" __attribute__((visibility("default"))) futurefill::Branches* futurefill_branches(
    int64_t batch_size) noexcept;
extern "C" __attribute__((visibility("default"))) futurefill::Branches* futurefill_branches_copy(
    const futurefill::Branches* branches) noexcept;
extern "C" __attribute__((visibility("default"))) void futurefill_branches_delete(
    futurefill::Branches* branches) noexcept;

// Their methods.
extern "C" __attribute__((visibility("default"))) void futurefill_branches_renew(
    futurefill::Branches* branches, const int64_t* rows, int64_t n) noexcept;
extern "C" __attribute__((visibility("default"))) void futurefill_branches_crop(
    futurefill::Branches* branches, const int64_t* rows, const int64_t* positions,
    int64_t n) noexcept;
extern "C" __attribute__((visibility("default"))) void futurefill_branches_reorder(
    futurefill::Branches* branches, const int64_t* rows, const int64_t* positions) noexcept;
extern "C" __attribute__((visibility("default"))) int64_t futurefill_branches_common(
    const futurefill::Branches* branches, int64_t row, int64_t other) noexcept;
