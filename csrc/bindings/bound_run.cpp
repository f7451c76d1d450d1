// Many steps of a bound stream in one call.
#include <algorithm>
#include <cstring>
#include <exception>
#include <string>

#include "bindings/bound_stream.h"
#include "bindings/due_fills.h"
#include "bindings/token_run.h"

namespace futurefill {
namespace {

void run(const BoundStream& s, const TokenRun& tokens) {
  StepParams a = s.step;
  s.undo.set(a, 0);
  std::fill_n(s.undo.token_at, s.batch, -1);  // while it is not known which token is the last
  run_tokens(a, s.fills, s.positions, tokens);
  for (int64_t r = 0; r < s.batch; ++r) s.undo.token_at[r] = s.positions[r] - 1;
}

}  // namespace
}  // namespace futurefill

const char* futurefill_run(futurefill::BoundStream* stream, const void* u, const void* pre,
                           const void* post, void* y, int64_t n, bool rectified) noexcept {
  using namespace futurefill;
  thread_local std::string error;
  const BoundStream& s = *stream;
  try {
    const auto tokens = [&](const void* x) { return block_of_tokens(x, s.batch, s.step.channels); };
    const Block before = tokens(pre), after = tokens(post);
    const int64_t token = s.batch * s.step.channels * bytes_of(s.step.io);
    const bool feeds = static_cast<const char*>(u) + token == y;
    run(s, {tokens(u), pre ? &before : nullptr, post ? &after : nullptr, tokens(y), n,
            !feeds      ? Feedback::kNone
            : rectified ? Feedback::kRectified
                        : Feedback::kSame});
    return nullptr;
  } catch (const std::exception& e) {
    error = e.what();
    return error.c_str();
  }
}

namespace futurefill {
namespace {

// Of one row, whose due fills have run, everything that n steps change.
void save_row(const BoundStream& s, int64_t row, int64_t n, Before& before) {
  const FillParams& f = s.fills.params.fill;
  const int64_t width = f.state == Scalar::kFloat64 ? 8 : 4, slot = s.fills.lanes * width;
  const int64_t start = s.positions[row], end = start + n, base = s.step.block;
  const bool fires = s.fills.levels.count && (end - 1) / base * base > start;
  for (int64_t tile = 0; tile < f.tiles; ++tile) {
    const int64_t at = row * f.tiles + tile;
    before.add(s.undo.pending + at * s.undo.slots * slot, s.undo.slots * slot);
    if (f.open_slots) {
      char* open = static_cast<char*>(f.open_block) + at * f.open_slots * slot;
      before.add(open, f.open_slots * slot);
    }
    if (fires && s.fills.image_rows) {
      before.add(s.fills.images + at * s.fills.image_rows * slot, s.fills.image_rows * slot);
    }
    int64_t stop = end;
    for (int64_t l = 0; l < s.fills.levels.count; ++l) {
      const LevelRow& level = s.fills.levels.rows[l];
      const int64_t last = (end - 1) / level.block * level.block;  // its last firing before the end
      if (last <= start) break;                                    // larger blocks fire no earlier
      stop = std::max(stop, std::min(last + level.block, s.length));
      int64_t first = level.kept_offset, rows = level.kept_rows();
      if (rows && last - level.block <= start) {  // the only firing
        first +=
            (last / level.block - 1) % level.radix % (rows / level.transform) * level.transform;
        rows = level.transform;
      }
      if (!rows) continue;
      char* kept = static_cast<char*>(f.kept) + 2 * slot * (at * f.kept_rows + first);
      before.add(kept, 2 * slot * rows);
    }
    const int64_t in_ring = s.fills.lanes * bytes_of(f.stored);
    char* slots = static_cast<char*>(f.ring) + (at * f.slots + start) * in_ring;
    before.add(slots, (stop - start) * in_ring);
  }
}

void restore(BoundStream& s) {
  const char* values = s.before.values.data();
  for (const Before::Piece& piece : s.before.pieces) {
    std::memcpy(piece.place, values, piece.bytes);
    values += piece.bytes;
  }
  for (int64_t r = 0; r < s.batch; ++r) {
    s.positions[r] = s.fills.filled[r] = s.before.start[r];
    s.undo.token_at[r] = -1;
  }
  s.before.clear();
}

}  // namespace
}  // namespace futurefill

const char* futurefill_begin_block(futurefill::BoundStream* stream, int64_t n) noexcept {
  using namespace futurefill;
  thread_local std::string error;
  BoundStream& s = *stream;
  s.before.clear();
  try {
    thread_local std::vector<RowAt> at;
    collect_rows(nullptr, s.positions, s.batch, s.batch, s.length - n + 1, at);
    run_unfilled(s.fills, at);
    for (int64_t r = 0; r < s.batch; ++r) save_row(s, r, n, s.before);
    s.before.start.assign(s.positions, s.positions + s.batch);
    s.before.end = s.before.start;
    return nullptr;
  } catch (const std::exception& e) {
    s.before.clear();
    error = e.what();
    return error.c_str();
  }
}

const char* futurefill_block(futurefill::BoundStream* stream, const futurefill::Block* u,
                             const futurefill::Block* pre, const futurefill::Block* post, void* y,
                             int64_t y_stride, int64_t n, futurefill::Feedback feedback) noexcept {
  using namespace futurefill;
  thread_local std::string error;
  BoundStream& s = *stream;
  try {
    run(s, {*u, pre, post, {y, {s.step.channels * y_stride, y_stride, 1}}, n, feedback});
    for (int64_t& end : s.before.end) end += n;
    return nullptr;
  } catch (const std::exception& e) {
    error = e.what();
    restore(s);
    return error.c_str();
  }
}

int64_t futurefill_kept_bytes(const futurefill::BoundStream* stream) noexcept {
  return static_cast<int64_t>(stream->before.values.capacity());
}

bool futurefill_take_back(futurefill::BoundStream* stream) noexcept {
  using namespace futurefill;
  BoundStream& s = *stream;
  if (s.before.end.empty()) return false;
  const bool newest = std::equal(s.before.end.begin(), s.before.end.end(), s.positions);
  newest ? restore(s) : s.before.clear();
  return newest;
}
