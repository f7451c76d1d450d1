#include "infra/move_slots.h"

#include <cstring>
#include <utility>

namespace futurefill {
namespace {

// One pass, whose loop compilers make of vectors: both are read as streams, and nothing goes aside.
void swap_bytes(char* __restrict a, char* __restrict b, int64_t bytes) {
  for (int64_t i = 0; i < bytes; ++i) std::swap(a[i], b[i]);
}

void move_tile(const SlotRange& range, const RowMove& move, int64_t layer, int64_t tile) {
  const auto place = [&](char* first, int64_t pitch, int64_t row) {
    return first + ((layer * range.batch + row) * range.tiles + tile) * pitch;
  };
  char* const target = place(range.target, range.target_tile, move.target);
  if (move.kind == MoveKind::kClear) {
    std::memset(target, static_cast<int>(range.empty), range.bytes);
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
