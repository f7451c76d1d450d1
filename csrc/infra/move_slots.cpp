#include "infra/move_slots.h"

#include <algorithm>
#include <cstring>

namespace futurefill {
namespace {

void swap_bytes(char* a, char* b, int64_t bytes) {
  char aside[4096];
  for (int64_t done = 0; done < bytes; done += sizeof(aside)) {
    const size_t n = std::min<int64_t>(sizeof(aside), bytes - done);
    std::memcpy(aside, a + done, n);
    std::memcpy(a + done, b + done, n);
    std::memcpy(b + done, aside, n);
  }
}

void move_tile(const SlotRange& range, const RowMove& move, int64_t layer, int64_t tile) {
  const auto place = [&](char* first, int64_t pitch, int64_t row) {
    return first + ((layer * range.batch + row) * range.tiles + tile) * pitch;
  };
  char* const target = place(range.target, range.target_tile, move.target);
  if (move.kind == MoveKind::kClear) {
    std::memset(target, 0, range.bytes);
    return;
  }
  char* const source = place(range.source, range.source_tile, move.source);
  if (move.kind == MoveKind::kSwap) {
    swap_bytes(source, target, range.bytes);
  } else {
    std::memcpy(target, source, range.bytes);
  }
}

}  // namespace

void move_slots(const SlotMoves& params, int64_t job_begin, int64_t job_end) {
  for (int64_t job = job_begin; job < job_end; ++job) {
    for (int64_t i = 0; i < params.n_ranges; ++i) {
      const SlotRange& range = params.ranges[i];
      if (job >= range.layers * range.tiles) continue;
      for (int64_t m = 0; m < params.n_moves; ++m) {
        move_tile(range, params.moves[m], job / range.tiles, job % range.tiles);
      }
    }
  }
}

}  // namespace futurefill
