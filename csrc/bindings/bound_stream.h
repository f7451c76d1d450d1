// What the steps of a checked stream need; see bound_step.h.
#pragma once

#include <cstddef>
#include <vector>

#include "bindings/bound_step.h"
#include "bindings/state_view.h"

namespace futurefill {

// What a block of steps changed, as it was, and where that is.
struct Before {
  struct Piece {
    char* place;
    size_t bytes;
  };
  std::vector<Piece> pieces;
  std::vector<char> values;         // of all pieces
  std::vector<int64_t> start, end;  // (B,) positions; empty where there is no block to take back

  void add(char* place, size_t bytes) {
    pieces.push_back({place, bytes});
    values.insert(values.end(), place, place + bytes);
  }

  void clear() { pieces.clear(), values.clear(), start.clear(), end.clear(); }
};

struct BoundStream {
  StepParams step;  // of layer 0
  FillState fills;
  Undo undo;
  int64_t ring_bytes, taps_bytes, skip_bytes;  // from one layer to the next
  int64_t layers, batch, length;
  int64_t* positions;
  Before before;  // of the newest block
};

}  // namespace futurefill
