// The CPU ops of a single level: its whole fill, or shares of one with slack.
#include <torch/csrc/stable/library.h>

#include "bindings/due_fills.h"
#include "cpu/scratch.h"
#include "cpu/twiddles.h"

namespace futurefill {
namespace {

// The fill of a plain level.
void run_level(const FillState& s, const Ring& ring, const Tensor& positions,
               const OptionalTensor& rows, int64_t index) {
  const LevelRow& level = s.levels.at(index);
  FillParams a = s.params.fill;
  const auto& at = collect_rows(rows, View("positions", positions), ring.batch, -1, a.length);
  for (const RowAt& row : at) {
    STD_TORCH_CHECK(
        row.position % level.block == 0 && row.position / level.block % level.radix != 0,
        "expected rows at a position where the level of block ", level.block,
        " fires, got position ", row.position);
  }
  set_level(a, level);
  a.rows = at.data();
  a.n_rows = static_cast<int64_t>(at.size());
  run_fill_jobs(a, thread_count());
}

void future_fill(Tensor ring_, Tensor open_block, Tensor kept, Tensor spectra, Tensor positions,
                 OptionalTensor rows, Tensor levels, int64_t length, int64_t index,
                 int64_t first_channel, int64_t last_channel, int64_t channels_per_filter) {
  const Ring ring(ring_, open_block);
  const FillState s = fill_state(ring, kept, spectra, levels, length);
  const FillParams& a = s.params.fill;
  STD_TORCH_CHECK(s.levels.at(index).plain(),
                  "expected a level without slack: fill_share does the others");
  STD_TORCH_CHECK(first_channel == 0 && last_channel == ring.tiles * ring.lanes,
                  "expected all channels, 0 .. ", ring.tiles * ring.lanes, ", got ", first_channel,
                  " .. ", last_channel);
  const int64_t stored = std::max<int64_t>(a.channels_per_filter, 1);
  STD_TORCH_CHECK(channels_per_filter == stored, "expected channels_per_filter = ", stored,
                  " like spectra, got ", channels_per_filter);
  run_level(s, ring, positions, rows, index);
}

void made_fill(Tensor ring_, Tensor open_block, Tensor kept, Tensor spectra, Tensor filters,
               Tensor positions, OptionalTensor rows, Tensor levels, int64_t length,
               int64_t index) {
  const Ring ring(ring_, open_block);
  FillState s = fill_state(ring, kept, spectra, levels, length);
  set_taps(s, ring, filters);
  STD_TORCH_CHECK(s.levels.at(index).made, "expected a level that makes its spectra");
  run_level(s, ring, positions, rows, index);
}

void fill_share(Tensor ring_, Tensor open_block, Tensor kept, Tensor work, Tensor spectra,
                Tensor positions, OptionalTensor rows, Tensor levels, int64_t length, int64_t index,
                int64_t begin, int64_t end) {
  const Ring ring(ring_, open_block);
  FillState s = fill_state(ring, kept, spectra, levels, length);
  set_work(s, ring, work);
  const LevelRow& level = s.levels.at(index);
  STD_TORCH_CHECK(!level.plain(), "expected a level with slack: future_fill does the others");
  STD_TORCH_CHECK(begin >= 0 && begin <= end, "expected 0 <= begin <= end, got ", begin, " and ",
                  end);
  const auto& at = collect_rows(rows, View("positions", positions), ring.batch, -1, length + 1);
  run_shares(s, level, at, Steps{begin, end});
}

void due_fills(Tensor ring_, Tensor open_block, Tensor kept, Tensor work, Tensor spectra,
               Tensor filters, Tensor positions, Tensor levels, int64_t length, Tensor filled,
               Tensor images) {
  const Ring ring(ring_, open_block);
  FillState s = fill_state(ring, kept, spectra, levels, length);
  set_work(s, ring, work);
  set_taps(s, ring, filters);
  set_filled(s, ring, filled, images);
  run_unfilled(s, collect_rows({}, View("positions", positions), ring.batch, -1, length + 1));
}

void make_twiddles(int64_t n, bool float64) {
  int log = 0;
  while ((int64_t{1} << log) < n) ++log;
  float64 ? (void)twiddle_tables<double>(log) : (void)twiddle_tables<float>(log);
}

// What fills of these levels work in: bytes of each thread, and the longest transform.
struct Scratch {
  int64_t each = 0, longest = 0;
};

Scratch scratch_of(const Levels& levels, int64_t batch_size, int64_t lanes, int64_t width,
                   bool narrow) {
  int64_t values = 0, longest = 0;
  for (int64_t l = 0; l < levels.count; ++l) {
    const LevelRow& level = levels.rows[l];
    if (!level.direct) longest = std::max(longest, level.transform);
    const int64_t rows = level.plain() ? std::min(batch_size, kMaxRows) : 0;
    const int64_t made = level.made ? level.n_spectra : 0;
    const int64_t direct = narrow ? (level.n_spectra + 1) * level.block * lanes : 0;
    values =
        std::max(values, level.direct ? direct : fill_scratch(rows, level.transform, lanes, made));
  }
  return {values * width, longest};
}

int64_t scratch_nbytes(Tensor levels, int64_t batch_size, int64_t jobs, int64_t lanes, bool float64,
                       bool narrow) {
  const int64_t width = float64 ? 8 : 4;
  const Scratch scratch = scratch_of(Levels(levels), batch_size, lanes, width, narrow);
  // a twiddle is eight values, and the tables of all depths have two for every entry
  return std::min(thread_count(), jobs) * whole_pages(scratch.each) + 16 * scratch.longest * width;
}

void reserve(Tensor levels, int64_t batch_size, int64_t jobs, int64_t lanes, bool float64,
             bool narrow) {
  const Scratch scratch = scratch_of(Levels(levels), batch_size, lanes, float64 ? 8 : 4, narrow);
  if (scratch.longest) make_twiddles(scratch.longest, float64);
  reserve_scratch(scratch.each, std::min(thread_count(), jobs));
}

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CPU, m) {
  m.impl("future_fill", TORCH_BOX(&future_fill));
  m.impl("made_fill", TORCH_BOX(&made_fill));
  m.impl("fill_share", TORCH_BOX(&fill_share));
  m.impl("due_fills", TORCH_BOX(&due_fills));
  m.impl("scratch_nbytes", TORCH_BOX(&scratch_nbytes));
  m.impl("reserve_scratch", TORCH_BOX(&reserve));
}

}  // namespace
}  // namespace futurefill
