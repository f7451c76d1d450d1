// Rows of a stream reordered that have all taken the same steps: a beam search does it every token.
#pragma once

#include <cstdint>

namespace futurefill {
class Branches;
}

// Row b becomes what row rows[b] was; of two rows that were one what has changed since. state: an
// AlikeRows. everything: whether slots behind the newest firings' may be used. False where rows are
// apart, or where there is no memory: then nothing has changed.
extern "C" __attribute__((visibility("default"))) bool futurefill_reorder_alike(
    futurefill::Branches* branches, const int64_t* rows, const int64_t* state,
    bool everything) noexcept;
