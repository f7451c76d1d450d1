// Which fills, and which shares of fills, are due at a position.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "bindings/state_view.h"

namespace futurefill {
namespace {

struct Steps {
  int64_t begin, end;  // the last one excluded
};

// Of a level's firings that are under way in `rows`, the shares of the steps asked for; without
// them that of each row's own step.
inline void run_shares(const FillState& s, const LevelRow& level, const std::vector<RowAt>& rows,
                       std::optional<Steps> asked) {
  thread_local std::vector<RowAt> due;  // nothing is allocated once it has grown
  const int64_t steps = std::max<int64_t>(level.steps, 1);
  const auto phase = [&](const RowAt& row) {
    return asked ? asked->begin : row.position % level.block;
  };
  due.clear();
  for (const RowAt& row : rows) {
    const int64_t boundary = row.position / level.block * level.block;
    if (boundary == 0 || boundary + level.late >= s.params.fill.length) continue;
    if (phase(row) < steps) due.push_back(row);
  }
  if (due.empty()) return;
  // rows in the same step of a firing read the spectra together
  std::sort(due.begin(), due.end(), [&](const RowAt& a, const RowAt& b) {
    return phase(a) != phase(b) ? phase(a) < phase(b) : a.state < b.state;
  });
  StageParams p = s.params;
  FillParams& a = p.fill;
  set_level(a, level);
  p.late = level.late, p.extra = level.extra, p.work_offset = level.work_offset;
  const int64_t jobs = a.layers * a.tiles, side = p.side_by_side, threads = thread_count();
  const int64_t stages = engine().of_lanes(a.state, a.lanes).fill_stages(p),
                units = (jobs + side - 1) / side * stages;
  for (size_t first = 0, last; first < due.size(); first = last) {
    const int64_t begin = phase(due[first]);
    const int64_t end = asked ? std::min(asked->end, steps) : begin + 1;
    for (last = first; last < due.size() && phase(due[last]) == begin; ++last) {
    }
    for (size_t r = first; r < last; ++r) due[r].position -= due[r].position % level.block;
    a.rows = due.data() + first;
    a.n_rows = static_cast<int64_t>(last - first);
    for (int64_t u = units * begin / steps; u < units * end / steps; ++u) {
      const int64_t job = u / stages * side;
      run_fill_stage(p, u % stages, job, std::min(job + side, jobs), threads);
    }
  }
}

// What the firings of a level at the rows of `a` are going to change in some tiles, as it is now,
// where they can be taken back.
inline void save_images(const FillState& s, const LevelRow& level, const FillParams& a,
                        int64_t tile_begin, int64_t tile_end) {
  if (!s.images || !level.images) return;
  const int64_t lanes = s.lanes;
  const int64_t row_bytes = lanes * (a.state == Scalar::kFloat64 ? 8 : 4);
  const int64_t kept_slots = level.kept_rows() / level.transform;
  for (int64_t r = 0; r < a.n_rows; ++r) {
    const int64_t p = a.rows[r].position, n = p / level.block;
    const int64_t outputs = std::min(level.block, a.length - p);
    const int64_t image = level.images_offset + n % level.images * level.image_rows();
    const int64_t newest = kept_slots ? (n - 1) % level.radix % kept_slots : 0;
    for (int64_t layer = 0; layer < a.layers; ++layer) {
      for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
        const int64_t at = (layer * a.batch + a.rows[r].state) * a.tiles + tile;
        char* to = s.images + (at * s.image_rows + image) * row_bytes;
        const int64_t slot_bytes = lanes * bytes_of(a.stored);
        const char* ring = static_cast<const char*>(a.ring) + (at * a.slots + p) * slot_bytes;
        if (a.stored == a.state) {
          std::memcpy(to, ring, outputs * row_bytes);
        } else {
          engine().token.widen_row(a.stored, ring, to, outputs * lanes, false);
        }
        if (!kept_slots) continue;
        const int64_t row = at * a.kept_rows + level.kept_offset + newest * level.transform;
        std::memcpy(to + level.block * row_bytes, static_cast<char*>(a.kept) + 2 * row * row_bytes,
                    2 * level.transform * row_bytes);
      }
    }
  }
}

// fire(fill, level) for every plain level that is due at the positions of rows, its rows together.
// Reorders and shortens `rows`.
template <class F>
void for_each_firing(const FillState& s, std::vector<RowAt>& rows, const F& fire) {
  if (!s.levels.count) return;
  const LevelRow* levels = s.levels.rows;
  const int64_t smallest = levels[0].block, length = s.params.fill.length;
  const auto not_due = [&](const RowAt& row) {
    return row.position == 0 || row.position % smallest != 0 || row.position >= length;
  };
  rows.erase(std::remove_if(rows.begin(), rows.end(), not_due), rows.end());
  if (rows.empty()) return;
  FillParams a = s.params.fill;
  a.turns = true;
  // a row fires at the largest block that divides its position: largest level first
  auto begin = rows.begin();
  for (int64_t l = s.levels.count - 1; l >= 0 && begin != rows.end(); --l) {
    const LevelRow& level = levels[l];
    const auto end = std::partition(
        begin, rows.end(), [&](const RowAt& row) { return row.position % level.block == 0; });
    if (end != begin && level.plain()) {
      set_level(a, level);
      a.rows = &*begin;
      a.n_rows = end - begin;
      fire(a, level);
    }
    begin = end;
  }
}

inline void run_plain_fills(const FillState& s, std::vector<RowAt>& rows) {
  for_each_firing(s, rows, [&](const FillParams& a, const LevelRow& level) {
    save_images(s, level, a, 0, a.tiles);
    run_fill_jobs(a, thread_count());
  });
}

inline void run_fills_with_slack(const FillState& s, std::vector<RowAt>& rows) {
  thread_local std::vector<RowAt> under_way;
  under_way = rows;
  run_plain_fills(s, rows);
  // larger blocks first: their outputs are finished before the others start on the same slots
  for (int64_t l = s.levels.count - 1; l >= 0; --l) {
    if (!s.levels.rows[l].plain()) run_shares(s, s.levels.rows[l], under_way, {});
  }
}

// What is due at the positions of rows: the fills of plain levels, and of
// levels with slack this step's shares. Reorders and shortens `rows`.
inline void run_due_fills(const FillState& s, std::vector<RowAt>& rows) {
  s.slack ? run_fills_with_slack(s, rows) : run_plain_fills(s, rows);
}

// The same for those of the rows where it has not run yet.
inline void run_unfilled(const FillState& s, const std::vector<RowAt>& rows) {
  thread_local std::vector<RowAt> due;
  due.clear();
  for (const RowAt& row : rows) {
    if (s.filled[row.state] != row.position) due.push_back(row);
  }
  if (due.empty()) return;
  run_due_fills(s, due);
  for (const RowAt& row : rows) s.filled[row.state] = row.position;
}

}  // namespace
}  // namespace futurefill
