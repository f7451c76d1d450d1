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
  S* z;            // (n, 2, W) scratch: X_{i-1} on its way down, the products on their way up
  S* kept;         // (slots, n, 2, W) of the row's level
  int64_t blocks;  // spectra to add: min(i, K)
  int64_t newest;  // slot of X_{i-1}
  bool keep;       // whether a later firing of the group needs X_{i-1}
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
};

// Products of four (or one) consecutive spectrum entries, in place of X_{i-1}. kSingle: it is the
// only input spectrum and need not be kept.
template <class S, bool kShared, bool kSingle, int kCount>
FF_INLINE void multiply(Complex<S> v[kCount], const Fill<S>& f, const RowSpectra<S>& row,
                        int64_t index) {
  constexpr int64_t W2 = 2 * kLanes<S>;
  constexpr int64_t G = kShared ? 1 : kLanes<S>;
  Complex<S> sum[kCount];
#pragma GCC unroll 4
  for (int q = 0; q < kCount; ++q) {
    const S* h = f.spectra + (index + q) * 2 * G;
    const Vec<S> re = load_filter<S, kShared>(h), im = load_filter<S, kShared>(h + G);
    if (!kSingle && row.keep) {
      sum[q] = v[q];
    }
    v[q] = {v[q].re * re - v[q].im * im, v[q].im * re + v[q].re * im};
  }
  if (kSingle) return;
  int64_t slot = row.newest;
  for (int64_t k = 2; k <= row.blocks; ++k) {
    slot = slot ? slot - 1 : f.kept_slots - 1;
    const S* x = row.kept + (slot * f.n + index) * W2;
    const S* h = f.spectra + ((k - 1) * f.n + index) * 2 * G;
#pragma GCC unroll 4
    for (int q = 0; q < kCount; ++q) {
      const Complex<S> z = load_complex(x + q * W2);
      const Vec<S> re = load_filter<S, kShared>(h + 2 * q * G);
      const Vec<S> im = load_filter<S, kShared>(h + (2 * q + 1) * G);
      v[q].re = v[q].re + z.re * re - z.im * im;
      v[q].im = v[q].im + z.im * re + z.re * im;
    }
  }
  if (!row.keep) return;
#pragma GCC unroll 4
  for (int q = 0; q < kCount; ++q) {
    store_complex(row.kept + (row.newest * f.n + index + q) * W2, sum[q]);
  }
}

// A node of four coefficients: split, multiplied and merged in registers.
template <class S, bool kShared, bool kSingle>
FF_INLINE void leaf4(const Fill<S>& f, const RowSpectra<S>& row, const Twiddle<S>& t,
                     int64_t index) {
  constexpr int64_t W2 = 2 * kLanes<S>;
  S* z = row.z + index * W2;
  Complex<S> v[4];
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) v[q] = load_complex(z + q * W2);
  split4(v, t);
  multiply<S, kShared, kSingle, 4>(v, f, row, index);
  merge4(v, t);
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) store_complex(z + q * W2, v[q]);
}

// The subtree of a node of m coefficients of one row.
template <class S, bool kShared, bool kSingle>
void subtree(const Fill<S>& f, const RowSpectra<S>& row, int depth, int64_t node, int64_t m) {
  constexpr int64_t W2 = 2 * kLanes<S>;
  S* z = row.z + node * m * W2;
  if (m == 1) {
    Complex<S> v[1] = {load_complex(z)};
    multiply<S, kShared, kSingle, 1>(v, f, row, node);
    return store_complex(z, v[0]);
  }
  const Twiddle<S>& t = f.tables->depth[depth][node];
  if (m == 4) return leaf4<S, kShared, kSingle>(f, row, t, node * 4);
  split_node(z, m, t);
  if (m == 16) {
    const Twiddle<S>* leaves = f.tables->depth[depth + 2] + 4 * node;
    for (int q = 0; q < 4; ++q) {
      leaf4<S, kShared, kSingle>(f, row, leaves[q], (4 * node + q) * 4);
    }
  } else {
    for (int64_t child = 4 * node; child < 4 * node + 4; ++child) {
      subtree<S, kShared, kSingle>(f, row, depth + 2, child, m / 4);
    }
  }
  merge_node(z, m, t);
}

// The same for all rows, which take turns where a subtree and its spectra fit the cache.
template <class S, bool kShared>
void all_rows(const Fill<S>& f, int depth, int64_t node, int64_t m) {
  if (f.n_rows == 1 || m <= 4 || m * 2 * int64_t{sizeof(S)} * kLanes<S> <= kSubtreeBytes) {
    for (int64_t r = 0; r < f.n_rows; ++r) {
      const RowSpectra<S>& row = f.rows[r];
      row.blocks == 1 && !row.keep ? subtree<S, kShared, true>(f, row, depth, node, m)
                                   : subtree<S, kShared, false>(f, row, depth, node, m);
    }
    return;
  }
  const Twiddle<S>& t = f.tables->depth[depth][node];
  const int64_t offset = node * m * 2 * kLanes<S>;
  for (int64_t r = 0; r < f.n_rows; ++r) split_node(f.rows[r].z + offset, m, t);
  for (int64_t child = 4 * node; child < 4 * node + 4; ++child) {
    all_rows<S, kShared>(f, depth + 2, child, m / 4);
  }
  for (int64_t r = 0; r < f.n_rows; ++r) merge_node(f.rows[r].z + offset, m, t);
}

// depth below the root where powers of 4 begin: radix 1, 2, 4, 8 for log2 n = 0, 1, even, odd
int root_depth(int log) { return log < 2 ? log : log % 2 ? 3 : 2; }

template <class S>
void split_any_root(const S* real, S* z, int64_t n, int depth, const TwiddleTables<S>& tables) {
  switch (depth) {
    case 0:
      return split_root<S, 1>(real, z, n, tables);
    case 1:
      return split_root<S, 2>(real, z, n, tables);
    case 2:
      return split_root<S, 4>(real, z, n, tables);
    default:
      return split_root<S, 8>(real, z, n, tables);
  }
}

template <class S>
void merge_any_root(const S* z, S* out, int64_t n, int depth, const TwiddleTables<S>& tables) {
  switch (depth) {
    case 0:
      return merge_root<S, 1>(z, out, n, tables);
    case 1:
      return merge_root<S, 2>(z, out, n, tables);
    case 2:
      return merge_root<S, 4>(z, out, n, tables);
    default:
      return merge_root<S, 8>(z, out, n, tables);
  }
}

// Rows begin .. end of one tile. scratch: (rows, n, 2, W) then (n, W)
template <class S, bool kShared>
void fill_rows(const FillParams& a, int64_t layer, int64_t tile, int64_t begin, int64_t end,
               int64_t n, S* scratch) {
  constexpr int64_t W = kLanes<S>;
  constexpr int64_t G = kShared ? 1 : W;
  const int log = log2_of(n), depth = root_depth(log);
  const int64_t filter = layer * a.filter_tiles + (kShared ? tile * W / a.repeat : tile);
  Fill<S> f;
  f.n = n;
  f.kept_slots = a.n_spectra > 1 ? a.n_spectra - 1 : 0;
  f.spectra =
      static_cast<const S*>(a.spectra) + (filter * a.spectra_rows + a.spectra_offset) * 2 * G;
  f.n_rows = end - begin;
  f.tables = &twiddle_tables<S>(log);
  S* padded = scratch + f.n_rows * n * 2 * W;

  S* slots[kMaxRows];
  for (int64_t r = 0; r < f.n_rows; ++r) {
    const RowAt at = a.rows[begin + r];
    const int64_t state = (layer * a.batch + at.state) * a.tiles + tile;
    const int64_t i = at.position / a.block % a.radix;
    RowSpectra<S>& row = f.rows[r];
    row.z = scratch + r * n * 2 * W;
    row.kept = static_cast<S*>(a.kept) + (state * a.kept_rows + a.kept_offset) * 2 * W;
    row.blocks = i < a.n_spectra ? i : a.n_spectra;
    row.keep = f.kept_slots && i < a.radix - 1;
    row.newest = f.kept_slots ? (i - 1) % f.kept_slots : 0;
    slots[r] = static_cast<S*>(a.ring) + (state * a.slots + at.position) * W;
    const S* inputs = slots[r] - a.block * W;
    if (n != a.block) {
      for (int64_t m = 0; m < a.block * W; ++m) padded[m] = inputs[m];
      for (int64_t m = a.block * W; m < n * W; ++m) padded[m] = 0;
      inputs = padded;
    }
    split_any_root(inputs, row.z, n, depth, *f.tables);
  }
  const int64_t nodes = int64_t{1} << depth;
  for (int64_t node = 0; node < nodes; ++node) all_rows<S, kShared>(f, depth, node, n / nodes);
  for (int64_t r = 0; r < f.n_rows; ++r) {
    const int64_t left = a.length - a.rows[begin + r].position;
    const int64_t wanted = left < a.block ? left : a.block;
    if (wanted == n) {
      merge_any_root(f.rows[r].z, slots[r], n, depth, *f.tables);
    } else {
      for (int64_t m = 0; m < n * W; ++m) padded[m] = 0;
      merge_any_root(f.rows[r].z, padded, n, depth, *f.tables);
      for (int64_t m = 0; m < wanted * W; ++m) slots[r][m] += padded[m];
    }
  }
}

template <class S, bool kShared>
void fill_tile(const FillParams& a, int64_t layer, int64_t tile) {
  if (a.direct) return direct_fill<S, kShared>(a, layer, tile);
  int64_t n = 1;
  while (n < a.block) n *= 2;
  const int64_t rows = a.n_rows < kMaxRows ? a.n_rows : kMaxRows;
  S* scratch = static_cast<S*>(thread_scratch((rows * 2 + 1) * n * kLanes<S> * int64_t{sizeof(S)}));
  for (int64_t begin = 0; begin < a.n_rows; begin += rows) {
    const int64_t end = begin + rows < a.n_rows ? begin + rows : a.n_rows;
    fill_rows<S, kShared>(a, layer, tile, begin, end, n, scratch);
  }
}

constexpr int64_t kPrefetchBlock = 256;  // larger blocks stream long enough for the hardware

// Ask for a small job's memory while the job before it runs: tiles are far apart in memory.
template <class S>
void prefetch_job(const FillParams& a, int64_t job) {
  constexpr int64_t W = kLanes<S>;
  const int64_t layer = job / a.tiles, tile = job % a.tiles;
  const int64_t bytes = 2 * a.block * W * int64_t{sizeof(S)};
  for (int64_t r = 0; r < a.n_rows; ++r) {
    const RowAt at = a.rows[r];
    const int64_t state = (layer * a.batch + at.state) * a.tiles + tile;
    const char* slots = reinterpret_cast<const char*>(
        static_cast<const S*>(a.ring) + (state * a.slots + at.position - a.block) * W);
    for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(slots + b, 1);
  }
  if (a.repeat) return;
  const char* spectra = reinterpret_cast<const char*>(
      static_cast<const S*>(a.spectra) +
      ((layer * a.filter_tiles + tile) * a.spectra_rows + a.spectra_offset) * 2 * W);
  for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(spectra + b);
}

template <class S>
void fill_jobs(const FillParams& a, int64_t job_begin, int64_t job_end) {
  for (int64_t job = job_begin; job < job_end; ++job) {
    if (a.block <= kPrefetchBlock && job + 1 < job_end) prefetch_job<S>(a, job + 1);
    a.repeat ? fill_tile<S, true>(a, job / a.tiles, job % a.tiles)
             : fill_tile<S, false>(a, job / a.tiles, job % a.tiles);
  }
}

}  // namespace

void future_fill(const FillParams& a, int64_t job_begin, int64_t job_end) {
  a.state == Scalar::kFloat64 ? fill_jobs<double>(a, job_begin, job_end)
                              : fill_jobs<float>(a, job_begin, job_end);
}

}  // namespace FF_ISA
}  // namespace futurefill
