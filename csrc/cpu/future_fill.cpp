// ring[p : p + T] += last T entries of F^-1(sum_{k=1..min(i, K)} X_{i-k} H_k)  (docs/algorithm.md)
#include "direct_fill.h"
#include "fill_tree.h"
#include "made_spectra.h"
#include "narrow_ring.h"
#include "scratch.h"

namespace futurefill {
namespace FF_ISA {

namespace {

// Rows begin .. end of one job; `next` is the job after it. spectra: of both. scratch: a tree per
// row, then (n, W)
template <class S, bool kShared>
void fill_rows(const FillParams& a, int64_t job, int64_t next, const S* const spectra[2],
               int64_t begin, int64_t end, int64_t n, S* scratch) {
  constexpr int64_t W = kLanes<S>;
  const int log = log2_of(n), depth = root_depth(log);
  const int64_t nodes = int64_t{1} << depth, row_values = nodes * root_stride<S>(n / nodes);
  Fill<S> f;
  f.n = n;
  f.kept_slots = a.n_spectra > 1 ? a.n_spectra - 1 : 0;
  f.spectra = spectra[0];
  f.next_spectra = spectra[1];
  f.n_rows = end - begin;
  f.tables = &twiddle_tables<S>(log);
  const Twiddle<S>& root = f.tables->depth[0][0];
  S* padded = scratch + f.n_rows * row_values;
  const bool narrow = is_narrow<S>(a);

  const auto slot = [&](int64_t r) { return slot_of<S>(a, job, a.rows[begin + r]); };
  for (int64_t r = 0; r < f.n_rows; ++r) {
    const RowAt at = a.rows[begin + r];
    const int64_t state = (job / a.tiles * a.batch + at.state) * a.tiles + job % a.tiles;
    const int64_t i = at.position / a.block % a.radix;
    RowSpectra<S>& row = f.rows[r];
    row.z = scratch + r * row_values;
    row.kept = static_cast<S*>(a.kept) + (state * a.kept_rows + a.kept_offset) * 2 * W;
    row.blocks = i < a.n_spectra ? i : a.n_spectra;
    row.keep = f.kept_slots && i < a.radix - 1;
    row.newest = f.kept_slots ? (i - 1) % f.kept_slots : 0;
    row.next =
        a.block == n && n <= kNextSlots && !narrow ? slot_of<S>(a, next, at) - n * W : nullptr;
    const S* inputs = slot(r) - a.block * W;
    const S* tail = r + 1 < f.n_rows ? slot(r + 1) - a.block * W : slot(0);
    if (n != a.block || narrow) {
      if constexpr (sizeof(S) == sizeof(float)) {
        if (narrow) read_slots(a, job, at, -a.block, a.block, padded), tail = padded;
      }
      if (!narrow) {
        for (int64_t m = 0; m < a.block * W; ++m) padded[m] = inputs[m];
      }
      for (int64_t m = a.block * W; m < n * W; ++m) padded[m] = 0;
      inputs = padded;
    }
    split_any_root(inputs, tail, row.z, n, depth, root);
  }
  for (int64_t node = 0; node < nodes; ++node) {
    all_rows<S, kShared>(f, node * root_stride<S>(n / nodes), depth, node, n / nodes);
  }
  for (int64_t r = 0; r < f.n_rows; ++r) {
    const int64_t left = a.length - a.rows[begin + r].position;
    const int64_t wanted = left < a.block ? left : a.block;
    const S* tail =
        r + 1 < f.n_rows ? slot(r + 1) : slot_of<S>(a, next, a.rows[begin]) - a.block * W;
    if (wanted == n && !narrow) {
      merge_any_root(f.rows[r].z, slot(r), tail, n, depth, root);
    } else {
      for (int64_t m = 0; m < n * W; ++m) padded[m] = 0;
      merge_any_root(f.rows[r].z, padded, narrow ? padded : tail, n, depth, root);
      if constexpr (sizeof(S) == sizeof(float)) {
        if (narrow) {
          add_to_slots(a, job, a.rows[begin + r], wanted, padded);
          continue;
        }
      }
      S* out = slot(r);
      for (int64_t m = 0; m < wanted * W; ++m) out[m] += padded[m];
    }
  }
}

template <class S, bool kShared>
void fill_all_rows(const FillParams& a, int64_t job, int64_t next, const S* const spectra[2],
                   int64_t n, S* scratch) {
  const int64_t rows = a.n_rows < kMaxRows ? a.n_rows : kMaxRows;
  for (int64_t begin = 0; begin < a.n_rows; begin += rows) {
    const int64_t end = begin + rows < a.n_rows ? begin + rows : a.n_rows;
    fill_rows<S, kShared>(a, job, next, spectra, begin, end, n, scratch);
  }
}

template <class S, bool kShared>
void transform_fill(const FillParams& a, int64_t job, int64_t next) {
  const int64_t n = int64_t{1} << log2_of(a.block),
                rows = a.n_rows < kMaxRows ? a.n_rows : kMaxRows;
  S* scratch =
      static_cast<S*>(thread_scratch(fill_scratch(rows, n, kLanes<S>, 0) * int64_t{sizeof(S)}));
  const S* spectra[2] = {spectra_of<S, kShared>(a, job), spectra_of<S, kShared>(a, next)};
  fill_all_rows<S, kShared>(a, job, next, spectra, n, scratch);
}

// Jobs of a level that makes its spectra: as many as the row that has most blocks needs.
template <class S>
void made_fill(const FillParams& a, int64_t job_begin, int64_t job_end) {
  const int64_t n = int64_t{1} << log2_of(a.block),
                rows = a.n_rows < kMaxRows ? a.n_rows : kMaxRows;
  int64_t count = 1;
  for (int64_t r = 0; r < a.n_rows; ++r) {
    const int64_t i = a.rows[r].position / a.block % a.radix;
    const int64_t blocks = i < a.n_spectra ? i : a.n_spectra;
    count = blocks > count ? blocks : count;
  }
  const int64_t made_values = count * n * 2 * kLanes<S>;
  const int64_t bytes = fill_scratch(rows, n, kLanes<S>, count) * int64_t{sizeof(S)};
  S* spectrum = static_cast<S*>(thread_scratch(bytes));
  const S* spectra[2] = {spectrum, spectrum};
  Made<S> made;
  for (int64_t job = job_begin; job < job_end; ++job) {
    const int64_t next = job + 1 < job_end ? job + 1 : job;
    made.make(a, job, count, n, spectrum);
    fill_all_rows<S, false>(a, job, next, spectra, n, spectrum + made_values);
  }
}

// Ask for a direct product's memory while the job before it runs: tiles are far apart in memory.
template <class S>
void prefetch_direct(const FillParams& a, int64_t job) {
  constexpr int64_t W = kLanes<S>;
  const int64_t bytes = 2 * a.block * W * int64_t{sizeof(S)};
  for (int64_t r = 0; r < a.n_rows; ++r) {
    const char* slots = reinterpret_cast<const char*>(slot_of<S>(a, job, a.rows[r]) - a.block * W);
    for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(slots + b, 1);
  }
  if (a.channels_per_filter) return;
  const char* taps = reinterpret_cast<const char*>(spectra_of<S, false>(a, job));
  for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(taps + b);
}

template <class S, bool kShared>
void fill_jobs(const FillParams& a, int64_t job_begin, int64_t job_end) {
  if (is_narrow<S>(a) && a.turns) {
    for (int64_t job = job_begin; job < job_end; ++job) {
      for (int64_t r = 0; r < a.n_rows; ++r) turn_block(a, job, a.rows[r]);
    }
  }
  if (a.made) return made_fill<S>(a, job_begin, job_end);
  for (int64_t job = job_begin; job < job_end; ++job) {
    const int64_t next = job + 1 < job_end ? job + 1 : job;
    if (a.direct) {
      if (!is_narrow<S>(a)) prefetch_direct<S>(a, next);
      direct_fill<S, kShared>(a, job / a.tiles, job % a.tiles);
    } else {
      transform_fill<S, kShared>(a, job, next);
    }
  }
}

template <class S>
void fill_any(const FillParams& a, int64_t job_begin, int64_t job_end) {
  a.channels_per_filter ? fill_jobs<S, true>(a, job_begin, job_end)
                        : fill_jobs<S, false>(a, job_begin, job_end);
}

}  // namespace

void future_fill(const FillParams& a, int64_t job_begin, int64_t job_end) {
  a.state == Scalar::kFloat64 ? fill_any<double>(a, job_begin, job_end)
                              : fill_any<float>(a, job_begin, job_end);
}

}  // namespace FF_ISA
}  // namespace futurefill
