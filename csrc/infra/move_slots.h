// Slots of rows copied, exchanged and cleared: bytes, whatever they are numbers of. No torch.
#pragma once

#include <cstdint>

namespace futurefill {

// Neighbouring slots of arrays (layers, B, tiles, slots, ...), of every tile of a row.
struct SlotRange {
  char *source, *target;             // those of the first tile of the first row
  int64_t source_tile, target_tile;  // bytes from tile to tile
  int64_t layers, batch, tiles;
  int64_t bytes;  // of a tile
  int64_t empty;  // every byte of what is cleared
};

enum class MoveKind : int64_t { kCopy, kSwap, kClear };

struct RowMove {
  MoveKind kind;
  int64_t source, target;  // rows; of kClear the target alone
};

// Every move of every range, in their order. A job is a tile of a layer in all ranges: what one of
// them writes another may read.
struct SlotMoves {
  const SlotRange* ranges;
  int64_t n_ranges;
  const RowMove* moves;
  int64_t n_moves;
};

void move_slots(const SlotMoves& params, int64_t job_begin, int64_t job_end);

}  // namespace futurefill
