// ring[p : p + T] += last T entries of F^-1(sum_{k=1..min(i, K)} X_{i-k} H_k)  (docs/algorithm.md)
//
// Depth first: a subtree of the transform is split, multiplied by the spectra and merged while it
// is in cache, for every row of the batch before the next subtree, so spectra are read once.
#include "direct_fill.h"
#include "engine.h"
#include "simd.h"
#include "transform.h"

namespace futurefill {
namespace FF_ISA {

namespace {

constexpr int64_t kMaxRows = 8;           // rows that share one reading of the spectra
constexpr int64_t kSubtreeBytes = 16384;  // of one row: half of the smallest first-level cache

int log2_of(int64_t n) {
  int log = 0;
  while ((int64_t{1} << log) < n) ++log;
  return log;
}

// What multiplies the spectrum of one row.
template <class S>
struct RowSpectra {
  S* z;  // scratch, the root's children `root_stride` apart: X_{i-1} on its way down, the products
         // on their way up
  S* kept;         // (slots, n, 2, W) of the row's level
  int64_t blocks;  // spectra to add: min(i, K)
  int64_t newest;  // slot of X_{i-1}
  bool keep;       // whether a later firing of the group needs X_{i-1}
  const S* next;   // (2 block, W) inputs and outputs of the next job, or null
};

// One tile of channels at one level.
template <class S>
struct Fill {
  int64_t n;
  int64_t kept_slots;
  const S* spectra;  // (K, n, 2, W or 1)
  RowSpectra<S> rows[kMaxRows];
  int64_t n_rows;
  const TwiddleTables<S>* tables;
  const S* next_spectra;  // of the next tile
};

// Products of kCount consecutive spectrum entries, in place of X_{i-1}. kSingle: it is the only
// input spectrum and need not be kept.
template <class S, bool kShared, bool kSingle, int kCount>
FF_INLINE void multiply(Complex<S> v[kCount], const Fill<S>& f, const RowSpectra<S>& row,
                        int64_t index) {
  constexpr int64_t W2 = 2 * kLanes<S>;
  constexpr int64_t G = kShared ? 1 : kLanes<S>;
  Complex<S> newest[kCount];
  const S* first = f.spectra + index * 2 * G;
#pragma GCC unroll 8
  for (int q = 0; q < kCount; ++q) {
    const S* h = first + q * 2 * G;
    const Vec<S> re = once(load_filter<S, kShared>(h)), im = once(load_filter<S, kShared>(h + G));
    if (!kSingle && row.keep) newest[q] = v[q];
    v[q] = {v[q].re * re - v[q].im * im, v[q].im * re + v[q].re * im};
  }
  if (kSingle) return;
  int64_t slot = row.newest;
  for (int64_t k = 2; k <= row.blocks; ++k) {
    slot = slot ? slot - 1 : f.kept_slots - 1;
    const S* x = row.kept + (slot * f.n + index) * W2;
    const S* h = f.spectra + ((k - 1) * f.n + index) * 2 * G;
#pragma GCC unroll 8
    for (int q = 0; q < kCount; ++q) {
      const Complex<S> z = load_once(x + q * W2);
      const Vec<S> re = once(load_filter<S, kShared>(h + 2 * q * G));
      const Vec<S> im = once(load_filter<S, kShared>(h + (2 * q + 1) * G));
      v[q].re = v[q].re + z.re * re - z.im * im;
      v[q].im = v[q].im + z.im * re + z.re * im;
    }
  }
  if (!row.keep) return;
  // only now: in a sliding window the oldest spectrum was in this slot
#pragma GCC unroll 8
  for (int q = 0; q < kCount; ++q) {
    store_complex(row.kept + (row.newest * f.n + index + q) * W2, newest[q]);
  }
}

constexpr int64_t kSpectraAhead = 64;  // entries, 8 KiB at 16 lanes
constexpr int64_t kNextSlots = 2048;   // largest block whose next job's slots a job asks for
constexpr int kSecondLevel = 2;        // hint of a prefetch that leaves the first-level cache alone

// Ask for the entries of the first spectrum that a later leaf multiplies.
template <class S, bool kShared>
FF_INLINE void prefetch_spectra(const Fill<S>& f, int64_t index) {
  constexpr int64_t G = kShared ? 1 : kLanes<S>;
  constexpr int64_t kLine = 64 / sizeof(S);
  const int64_t ahead = index + kSpectraAhead;
  const S* h = ahead < f.n ? f.spectra + ahead * 2 * G : f.next_spectra + (ahead - f.n) * 2 * G;
#pragma GCC unroll 16
  for (int64_t k = 0; k < 16 * G; k += kLine) __builtin_prefetch(h + k, 0, kSecondLevel);
}

// Ask for the slots that the next job reads and adds to: as many bytes as spectrum entries have.
template <class S>
FF_INLINE void prefetch_slots(const RowSpectra<S>& row, int64_t index) {
  constexpr int64_t W2 = 2 * kLanes<S>, kLine = 64 / sizeof(S);
  if (!row.next) return;
#pragma GCC unroll 16
  for (int64_t k = 0; k < 8 * W2; k += kLine) {
    __builtin_prefetch(row.next + index * W2 + k, 0, kSecondLevel);
  }
}

// A node of eight coefficients: split, multiplied and merged in registers.
template <class S, bool kShared, bool kSingle>
FF_INLINE void leaf8(const Fill<S>& f, const RowSpectra<S>& row, S* z, const Twiddle<S>& t,
                     int64_t index) {
  constexpr int64_t W2 = 2 * kLanes<S>;
  Complex<S> v[8];
#pragma GCC unroll 8
  for (int q = 0; q < 8; ++q) v[q] = load_once(z + q * W2);
  if (kSingle) prefetch_spectra<S, kShared>(f, index);
  prefetch_slots(row, index);
  split8(v, t);
  if constexpr (kSingle) {
    multiply<S, kShared, true, 8>(v, f, row, index);
  } else {  // in halves, so that sums and what is kept stay in registers
    multiply<S, kShared, false, 4>(v, f, row, index);
    multiply<S, kShared, false, 4>(v + 4, f, row, index + 4);
  }
  merge8(v, t);
#pragma GCC unroll 8
  for (int q = 0; q < 8; ++q) store_complex(z + q * W2, v[q]);
}

// The subtree of a node of m coefficients, stored at z, of one row.
template <class S, bool kShared, bool kSingle>
void subtree(const Fill<S>& f, const RowSpectra<S>& row, S* z, int depth, int64_t node, int64_t m) {
  if (m == 1) {
    Complex<S> v[1] = {load_complex(z)};
    multiply<S, kShared, kSingle, 1>(v, f, row, node);
    return store_complex(z, v[0]);
  }
  const Twiddle<S>& t = f.tables->depth[depth][node];
  if (m == 8) return leaf8<S, kShared, kSingle>(f, row, z, t, node * 8);
  split_node(z, m, t);
  const int64_t child = m / 8 * 2 * kLanes<S>;
  if (m == 64) {
    const Twiddle<S>* leaves = f.tables->depth[depth + 3] + 8 * node;
    for (int q = 0; q < 8; ++q) {
      leaf8<S, kShared, kSingle>(f, row, z + q * child, leaves[q], (8 * node + q) * 8);
    }
  } else {
    for (int q = 0; q < 8; ++q) {
      subtree<S, kShared, kSingle>(f, row, z + q * child, depth + 3, 8 * node + q, m / 8);
    }
  }
  merge_node(z, m, t);
}

// The same for all rows, which take turns where a subtree and its spectra fit the cache. The node
// is `offset` values into each row's scratch.
template <class S, bool kShared>
void all_rows(const Fill<S>& f, int64_t offset, int depth, int64_t node, int64_t m) {
  if (f.n_rows == 1 || m <= 8 || m * 2 * int64_t{sizeof(S)} * kLanes<S> <= kSubtreeBytes) {
    for (int64_t r = 0; r < f.n_rows; ++r) {
      const RowSpectra<S>& row = f.rows[r];
      row.blocks == 1 && !row.keep
          ? subtree<S, kShared, true>(f, row, row.z + offset, depth, node, m)
          : subtree<S, kShared, false>(f, row, row.z + offset, depth, node, m);
    }
    return;
  }
  const Twiddle<S>& t = f.tables->depth[depth][node];
  for (int64_t r = 0; r < f.n_rows; ++r) split_node(f.rows[r].z + offset, m, t);
  const int64_t child = m / 8 * 2 * kLanes<S>;
  for (int64_t q = 0; q < 8; ++q) {
    all_rows<S, kShared>(f, offset + q * child, depth + 3, 8 * node + q, m / 8);
  }
  for (int64_t r = 0; r < f.n_rows; ++r) merge_node(f.rows[r].z + offset, m, t);
}

// depth below the root where powers of 8 begin
int root_depth(int log) { return log == 0 ? 0 : (log - 1) % 3 + 1; }

template <class S>
void split_any_root(const S* real, const S* tail, S* z, int64_t n, int depth,
                    const Twiddle<S>& root) {
  const int64_t child = root_stride<S>(n >> depth);
  switch (depth) {
    case 0:
      return split_root<S, 1>(real, tail, z, n, child, root);
    case 1:
      return split_root<S, 2>(real, tail, z, n, child, root);
    case 2:
      return split_root<S, 4>(real, tail, z, n, child, root);
    default:
      return split_root<S, 8>(real, tail, z, n, child, root);
  }
}

template <class S>
void merge_any_root(const S* z, S* out, const S* tail, int64_t n, int depth,
                    const Twiddle<S>& root) {
  const int64_t child = root_stride<S>(n >> depth);
  switch (depth) {
    case 0:
      return merge_root<S, 1>(z, out, tail, n, child, root);
    case 1:
      return merge_root<S, 2>(z, out, tail, n, child, root);
    case 2:
      return merge_root<S, 4>(z, out, tail, n, child, root);
    default:
      return merge_root<S, 8>(z, out, tail, n, child, root);
  }
}

// Slot of a row's position. A job is a (layer, tile) pair.
template <class S>
S* slot_of(const FillParams& a, int64_t job, const RowAt& row) {
  const int64_t state = (job / a.tiles * a.batch + row.state) * a.tiles + job % a.tiles;
  return static_cast<S*>(a.ring) + (state * a.slots + row.position) * kLanes<S>;
}

// Filter rows of a job's level.
template <class S, bool kShared>
const S* spectra_of(const FillParams& a, int64_t job) {
  constexpr int64_t W = kLanes<S>, G = kShared ? 1 : W;
  const int64_t tile = job % a.tiles;
  const int64_t filter = job / a.tiles * a.filter_tiles + (kShared ? tile * W / a.repeat : tile);
  return static_cast<const S*>(a.spectra) + (filter * a.spectra_rows + a.spectra_offset) * 2 * G;
}

// Rows begin .. end of one job; `next` is the job after it. scratch: a tree per row, then (n, W)
template <class S, bool kShared>
void fill_rows(const FillParams& a, int64_t job, int64_t next, int64_t begin, int64_t end,
               int64_t n, S* scratch) {
  constexpr int64_t W = kLanes<S>;
  const int log = log2_of(n), depth = root_depth(log);
  const int64_t nodes = int64_t{1} << depth, row_values = nodes * root_stride<S>(n / nodes);
  Fill<S> f;
  f.n = n;
  f.kept_slots = a.n_spectra > 1 ? a.n_spectra - 1 : 0;
  f.spectra = spectra_of<S, kShared>(a, job);
  f.next_spectra = spectra_of<S, kShared>(a, next);
  f.n_rows = end - begin;
  f.tables = &twiddle_tables<S>(log);
  const Twiddle<S>& root = f.tables->depth[0][0];
  S* padded = scratch + f.n_rows * row_values;

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
    row.next = a.block == n && n <= kNextSlots ? slot_of<S>(a, next, at) - n * W : nullptr;
    const S* inputs = slot(r) - a.block * W;
    if (n != a.block) {
      for (int64_t m = 0; m < a.block * W; ++m) padded[m] = inputs[m];
      for (int64_t m = a.block * W; m < n * W; ++m) padded[m] = 0;
      inputs = padded;
    }
    const S* tail = r + 1 < f.n_rows ? slot(r + 1) - a.block * W : slot(0);
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
    if (wanted == n) {
      merge_any_root(f.rows[r].z, slot(r), tail, n, depth, root);
    } else {
      for (int64_t m = 0; m < n * W; ++m) padded[m] = 0;
      merge_any_root(f.rows[r].z, padded, tail, n, depth, root);
      S* out = slot(r);
      for (int64_t m = 0; m < wanted * W; ++m) out[m] += padded[m];
    }
  }
}

template <class S, bool kShared>
void transform_fill(const FillParams& a, int64_t job, int64_t next) {
  int64_t n = 1;
  while (n < a.block) n *= 2;
  const int64_t rows = a.n_rows < kMaxRows ? a.n_rows : kMaxRows;
  S* scratch = static_cast<S*>(
      thread_scratch((rows * 8 * root_stride<S>(n / 8 + 1) + n * kLanes<S>)*int64_t{sizeof(S)}));
  for (int64_t begin = 0; begin < a.n_rows; begin += rows) {
    const int64_t end = begin + rows < a.n_rows ? begin + rows : a.n_rows;
    fill_rows<S, kShared>(a, job, next, begin, end, n, scratch);
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
  if (a.repeat) return;
  const char* taps = reinterpret_cast<const char*>(spectra_of<S, false>(a, job));
  for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(taps + b);
}

template <class S, bool kShared>
void fill_jobs(const FillParams& a, int64_t job_begin, int64_t job_end) {
  for (int64_t job = job_begin; job < job_end; ++job) {
    const int64_t next = job + 1 < job_end ? job + 1 : job;
    if (a.direct) {
      prefetch_direct<S>(a, next);
      direct_fill<S, kShared>(a, job / a.tiles, job % a.tiles);
    } else {
      transform_fill<S, kShared>(a, job, next);
    }
  }
}

template <class S>
void fill_any(const FillParams& a, int64_t job_begin, int64_t job_end) {
  a.repeat ? fill_jobs<S, true>(a, job_begin, job_end) : fill_jobs<S, false>(a, job_begin, job_end);
}

constexpr int kNodeLog = 3;  // a node has 2^kNodeLog children

// How a job of a level with slack is cut: whole where it is short, else the root pass, the subtrees
// below it (long ones again in their root pass, subtrees, root pass) and the root pass back.
struct Stages {
  int depth, nodes, per_node;
  bool whole;

  explicit Stages(int log) {
    constexpr int kLongest = 10;  // log2 of the longest transform that is one stage
    whole = log <= kLongest;
    depth = root_depth(log);
    nodes = 1 << depth;
    per_node = log - depth <= kLongest ? 1 : (1 << kNodeLog) + 2;
  }

  int64_t count() const { return whole ? 1 : 2 + int64_t{nodes} * per_node; }
};

// One stage of rows begin .. end of one job.
template <class S, bool kShared>
void tile_stage(const SliceParams& s, int64_t job, int64_t stage, int64_t begin, int64_t end) {
  constexpr int64_t W = kLanes<S>;
  const FillParams& a = s.fill;
  const int log = log2_of(a.block);
  const int64_t n = int64_t{1} << log;
  const Stages stages(log);
  const int64_t m = n / stages.nodes, stride = root_stride<S>(m);
  Fill<S> f;
  f.n = n;
  f.kept_slots = a.n_spectra - 1;
  f.spectra = f.next_spectra = spectra_of<S, kShared>(a, job);
  f.n_rows = end - begin;
  f.tables = &twiddle_tables<S>(log);
  const Twiddle<S>& root = f.tables->depth[0][0];
  const bool first = stage == 0, last = stage == stages.count() - 1;
  S* padded = static_cast<S*>(thread_scratch(n * W * int64_t{sizeof(S)}));
  for (int64_t r = 0; r < f.n_rows; ++r) {
    const RowAt at = a.rows[begin + r];
    const int64_t state = (job / a.tiles * a.batch + at.state) * a.tiles + job % a.tiles;
    const int64_t blocks = at.position / a.block;
    RowSpectra<S>& row = f.rows[r];
    const int64_t work = at.state * s.side_by_side + job % s.side_by_side;
    row.z = static_cast<S*>(s.work) + (work * s.work_rows + s.work_offset) * 2 * W;
    row.kept = static_cast<S*>(a.kept) + (state * a.kept_rows + a.kept_offset) * 2 * W;
    row.blocks = s.products(blocks);
    row.keep = f.kept_slots > 0;
    row.newest = f.kept_slots ? (blocks - 1) % f.kept_slots : 0;
    if (!first) continue;
    const S* inputs = slot_of<S>(a, job, at) - a.block * W;
    if (n != a.block) {
      for (int64_t i = 0; i < a.block * W; ++i) padded[i] = inputs[i];
      for (int64_t i = a.block * W; i < n * W; ++i) padded[i] = 0;
      inputs = padded;
    }
    split_any_root(inputs, inputs, row.z, n, stages.depth, root);
  }
  if (stages.whole) {
    for (int64_t node = 0; node < stages.nodes; ++node) {
      all_rows<S, kShared>(f, node * stride, stages.depth, node, m);
    }
  } else if (!first && !last) {
    const int64_t node = (stage - 1) / stages.per_node, part = (stage - 1) % stages.per_node;
    if (stages.per_node == 1) {
      all_rows<S, kShared>(f, node * stride, stages.depth, node, m);
    } else if (part > 0 && part < stages.per_node - 1) {
      const int64_t child = m >> kNodeLog;
      all_rows<S, kShared>(f, node * stride + (part - 1) * child * 2 * W, stages.depth + kNodeLog,
                           (node << kNodeLog) + part - 1, child);
    } else {
      const Twiddle<S>& t = f.tables->depth[stages.depth][node];
      for (int64_t r = 0; r < f.n_rows; ++r) {
        S* z = f.rows[r].z + node * stride;
        part == 0 ? split_node(z, m, t) : merge_node(z, m, t);
      }
    }
  }
  if (!last) return;
  for (int64_t r = 0; r < f.n_rows; ++r) {
    RowAt at = a.rows[begin + r];
    at.position += s.late;
    const int64_t left = a.length - at.position;
    const int64_t wanted = left < a.block ? left : a.block;
    S* out = slot_of<S>(a, job, at);
    if (wanted == n) {
      merge_any_root(f.rows[r].z, out, out, n, stages.depth, root);
    } else {
      for (int64_t i = 0; i < n * W; ++i) padded[i] = 0;
      merge_any_root(f.rows[r].z, padded, padded, n, stages.depth, root);
      for (int64_t i = 0; i < wanted * W; ++i) out[i] += padded[i];
    }
  }
}

template <class S>
void stage_jobs(const SliceParams& s, int64_t stage, int64_t job_begin, int64_t job_end) {
  for (int64_t job = job_begin; job < job_end; ++job) {
    for (int64_t begin = 0; begin < s.fill.n_rows; begin += kMaxRows) {
      const int64_t end = begin + kMaxRows < s.fill.n_rows ? begin + kMaxRows : s.fill.n_rows;
      s.fill.repeat ? tile_stage<S, true>(s, job, stage, begin, end)
                    : tile_stage<S, false>(s, job, stage, begin, end);
    }
  }
}

}  // namespace

void future_fill(const FillParams& a, int64_t job_begin, int64_t job_end) {
  a.state == Scalar::kFloat64 ? fill_any<double>(a, job_begin, job_end)
                              : fill_any<float>(a, job_begin, job_end);
}

int64_t fill_stages(const SliceParams& s) { return Stages(log2_of(s.fill.block)).count(); }

void fill_stage(const SliceParams& s, int64_t stage, int64_t job_begin, int64_t job_end) {
  s.fill.state == Scalar::kFloat64 ? stage_jobs<double>(s, stage, job_begin, job_end)
                                   : stage_jobs<float>(s, stage, job_begin, job_end);
}

}  // namespace FF_ISA
}  // namespace futurefill
