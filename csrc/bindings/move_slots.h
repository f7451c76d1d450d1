// Rows of a stream moved: a call is shorter than the making of the tensors that it copies.
#pragma once

#include <cstdint>

// ranges: (n_ranges, 9), each an infra/move_slots.h SlotRange. moves: (n_moves, 3), each a RowMove.
// Returns null, or what is wrong: then nothing has changed. The text lives until the thread's next
// call.
extern "C" __attribute__((visibility("default"))) const char* futurefill_move_slots(
    const int64_t* ranges, int64_t n_ranges, const int64_t* moves, int64_t n_moves) noexcept;
