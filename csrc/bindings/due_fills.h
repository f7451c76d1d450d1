// Which fills, and which shares of fills, are due at a position.
#pragma once

#include <algorithm>
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
  const int64_t stages = engine().fill_stages(p), units = (jobs + side - 1) / side * stages;
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

// The fills of plain levels due at the positions of rows. Reorders and shortens `rows`.
inline void run_plain_fills(const FillState& s, std::vector<RowAt>& rows) {
  const LevelRow* levels = s.levels.rows;
  const int64_t smallest = levels[0].block, length = s.params.fill.length;
  const auto not_due = [&](const RowAt& row) {
    return row.position % smallest != 0 || row.position >= length;
  };
  rows.erase(std::remove_if(rows.begin(), rows.end(), not_due), rows.end());
  if (rows.empty()) return;
  FillParams a = s.params.fill;
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
      run_fill_jobs(a, thread_count());
    }
    begin = end;
  }
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

// What is due at the positions of rows that have just advanced: the fills of plain levels, and of
// levels with slack this step's shares. Reorders and shortens `rows`.
inline void run_due_fills(const FillState& s, std::vector<RowAt>& rows) {
  if (s.slack) {
    run_fills_with_slack(s, rows);
  } else if (s.levels.count > 0) {
    run_plain_fills(s, rows);
  }
}

}  // namespace
}  // namespace futurefill
