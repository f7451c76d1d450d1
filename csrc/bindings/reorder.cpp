#include "bindings/reorder.h"

#include <algorithm>
#include <exception>

#include "bindings/levels.h"
#include "bindings/threads.h"
#include "infra/branches.h"
#include "infra/parallel.h"

namespace futurefill {
namespace {

// Rows of a state without slack or before-images. cache/compiled_branches.py packs it.
struct AlikeRows {
  const int64_t *positions, *filled;  // (B,)
  const LevelRow* levels;
  int64_t n_levels, slots;
  SlotRange ring, kept;  // of their slot 0
};

static_assert(sizeof(AlikeRows) == 23 * sizeof(int64_t));

SlotRange slots_of(SlotRange slot, int64_t first, int64_t count) {
  slot.source += first * slot.bytes, slot.target += first * slot.bytes;
  slot.bytes *= count;
  return slot;
}

// What rows at the place have that may have changed at positions since .. place.
std::vector<SlotRange> parts(const AlikeRows& s, int64_t place, int64_t since, bool everything) {
  std::vector<SlotRange> found(1);
  int64_t end = everything && !since ? s.slots : place;
  for (int64_t l = 0; l < s.n_levels; ++l) {
    const LevelRow& level = s.levels[l];
    const int64_t fired = place - place % level.block;
    if (fired < (since ? since : level.block)) break;
    end = std::max(end, std::min(fired + level.block, s.slots));
    const int64_t kept = std::min(place / level.block * level.transform, level.kept_rows());
    if (kept) found.push_back(slots_of(s.kept, level.kept_offset, kept));
  }
  found[0] = slots_of(s.ring, since, end - since);
  return found;
}

struct Group {
  int64_t since;
  std::vector<SlotRange> ranges;
  std::vector<RowMove> moves;
};

void move(const Group& group, int64_t threads) {
  run_move_jobs({group.ranges.data(), static_cast<int64_t>(group.ranges.size()), group.moves.data(),
                 static_cast<int64_t>(group.moves.size())},
                threads);
}

bool alike(const int64_t* values, int64_t count) {
  return std::all_of(values, values + count, [&](int64_t x) { return x == values[0]; });
}

bool reorder(Branches& branches, const int64_t* rows, const AlikeRows& s, bool everything) {
  const int64_t batch = branches.batch_size(), place = s.positions[0];
  if (!alike(s.positions, batch) || !alike(s.filled, batch)) return false;
  std::vector<int64_t> now(batch);  // which old row each is
  for (int64_t b = 0; b < batch; ++b) now[b] = b;
  std::vector<Group> groups;
  for (const RowMove& move : moves_to(rows, batch)) {
    const int64_t old = rows[move.target], other = now[move.target];
    const int64_t since = branches.common(old, other);
    now[move.target] = old;
    if (move.kind == MoveKind::kSwap) now[move.source] = other;
    if (groups.empty() || groups.back().since != since) {
      groups.push_back({since, parts(s, place, since, everything), {}});
    }
    groups.back().moves.push_back(move);
  }
  const int64_t threads = thread_count();
  branches.reorder(rows, s.positions);
  for (const Group& group : groups) move(group, threads);  // allocates nothing
  return true;
}

}  // namespace
}  // namespace futurefill

bool futurefill_reorder_alike(futurefill::Branches* branches, const int64_t* rows,
                              const int64_t* state, bool everything) noexcept {
  try {
    return reorder(*branches, rows, *reinterpret_cast<const futurefill::AlikeRows*>(state),
                   everything);
  } catch (const std::exception&) {
    return false;
  }
}
