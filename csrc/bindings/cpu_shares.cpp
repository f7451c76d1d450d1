// The CPU op of levels with slack: which part of which firing is due at a position.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "cpu/engine.h"
#include "bindings/state_view.h"

namespace futurefill {
namespace {

constexpr int64_t kLevelFields = 9;

SliceParams slice_params(const Ring& ring, const View& kept, const View& work, const View& spectra,
                         int64_t length) {
  SliceParams s{};
  FillParams& a = s.fill;
  STD_TORCH_CHECK(length >= 1 && length <= ring.slots, "expected length in 1 .. ", ring.slots,
                  ", got ", length);
  for (const View* v : {&kept, &work}) {
    check_contiguous(*v);
    ring.check_dtype(*v);
    check_size(*v, v->dim - 2, 2);
    check_size(*v, v->dim - 1, ring.lanes);
  }
  check_dim(kept, 6);
  check_size(kept, 0, ring.layers);
  check_size(kept, 1, ring.batch);
  check_size(kept, 2, ring.tiles);
  check_dim(work, 5);
  check_size(work, 0, ring.batch);
  a.repeat = check_filters(spectra, 5, ring);
  check_size(spectra, 3, 2);
  a.state = ring.state;
  a.ring = ring.view.data;
  a.kept = kept.data;
  a.spectra = spectra.data;
  a.layers = ring.layers;
  a.batch = ring.batch;
  a.tiles = ring.tiles;
  a.filter_tiles = spectra.sizes[1];
  a.slots = ring.slots;
  a.kept_rows = kept.sizes[3];
  a.spectra_rows = spectra.sizes[2];
  a.length = length;
  s.work = work.data;
  s.side_by_side = work.sizes[1];
  s.work_rows = work.sizes[2];
  return s;
}

// Returns the steps over which the level's work is spread, at least 1.
int64_t set_slices(SliceParams& s, const int64_t* d) {
  FillParams& a = s.fill;
  a.block = d[0], a.radix = d[1], a.n_spectra = d[2], a.kept_offset = d[3], a.spectra_offset = d[4];
  s.late = d[5], s.extra = d[7], s.work_offset = d[8];
  STD_TORCH_CHECK(a.block >= 1 && a.radix >= 1 && a.n_spectra >= 1 && s.late >= 0 && d[6] >= 0 &&
                      d[6] <= a.block && s.extra >= 0,
                  "expected levels with block, radix and n_spectra >= 1 and steps <= block");
  int64_t n = 1;
  while (n < a.block) n *= 2;
  STD_TORCH_CHECK(a.kept_offset >= 0 && a.kept_offset + (a.n_spectra - 1) * n <= a.kept_rows &&
                      a.spectra_offset >= 0 && a.spectra_offset + a.n_spectra * n <= a.spectra_rows,
                  "expected kept and spectra with the rows of every level");
  STD_TORCH_CHECK(
      s.work_offset >= 0 && s.work_offset + n + kWorkGaps <= s.work_rows && s.side_by_side >= 1,
      "expected work with the rows of every level, got ", s.work_rows);
  return std::max<int64_t>(d[6], 1);
}

// The shares of steps begin .. end-1 of `steps` of a firing of the rows in `s`.
void run_share(const SliceParams& s, int64_t steps, int64_t begin, int64_t end) {
  const int64_t jobs = s.fill.layers * s.fill.tiles, side = s.side_by_side;
  const int64_t stages = engine().fill_stages(s), units = (jobs + side - 1) / side * stages;
  for (int64_t u = units * begin / steps; u < units * end / steps; ++u) {
    const int64_t job = u / stages * side;
    run_fill_stage(s, u % stages, job, std::min(job + side, jobs));
  }
}

void sliced_fill(Tensor ring_, Tensor kept, Tensor work, Tensor spectra, Tensor positions,
                 OptionalTensor rows_, Tensor levels_, int64_t length, int64_t begin, int64_t end) {
  thread_local std::vector<RowAt> due;  // nothing is allocated once it has grown
  const Ring ring(ring_);
  const View levels("levels", levels_);
  check_dim(levels, 2);
  check_size(levels, 1, kLevelFields);
  check_contiguous(levels);
  check_int64(levels);
  SliceParams s =
      slice_params(ring, View("kept", kept), View("work", work), View("spectra", spectra), length);
  const auto& rows = collect_rows(rows_, View("positions", positions), ring.batch, -1, length + 1);
  const int64_t* level = static_cast<const int64_t*>(levels.data);
  // larger blocks first: their outputs are finished before the others start on the same slots
  for (int64_t l = levels.sizes[0] - 1; l >= 0; --l) {
    const int64_t steps = set_slices(s, level + kLevelFields * l), block = s.fill.block;
    const auto phase = [&](const RowAt& row) { return begin < 0 ? row.position % block : begin; };
    due.clear();
    for (const RowAt& row : rows) {
      const int64_t boundary = row.position / block * block;
      if (boundary == 0 || boundary + s.late >= length || phase(row) >= steps) continue;
      due.push_back(row);
    }
    // rows in the same step of a firing read the spectra together
    std::sort(due.begin(), due.end(), [&](const RowAt& a, const RowAt& b) {
      return phase(a) != phase(b) ? phase(a) < phase(b) : a.state < b.state;
    });
    for (size_t first = 0, last; first < due.size(); first = last) {
      const int64_t at = phase(due[first]);
      for (last = first; last < due.size() && phase(due[last]) == at; ++last) {
      }
      s.fill.rows = due.data() + first;
      s.fill.n_rows = static_cast<int64_t>(last - first);
      for (size_t r = first; r < last; ++r) {
        if (begin < 0) due[r].position -= at;
      }
      run_share(s, steps, at, begin < 0 ? at + 1 : std::min(end, steps));
    }
  }
}

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CPU, m) {
  m.impl("sliced_fill", TORCH_BOX(&sliced_fill));
}

}  // namespace
}  // namespace futurefill
