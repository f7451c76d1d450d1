// The tree of a future fill: split a subtree, multiply by the spectra and merge while it is in
// cache, for every row of the batch before the next subtree, so spectra are read once.
#pragma once

#include "engine.h"
#include "simd.h"
#include "transform_tree.h"

namespace futurefill {
namespace FF_ISA {

constexpr int64_t kSubtreeBytes = 16384;  // of one row: half of the smallest first-level cache

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
  const int64_t filter =
      job / a.tiles * a.filter_tiles + (kShared ? tile * W / a.channels_per_filter : tile);
  return static_cast<const S*>(a.spectra) + (filter * a.spectra_rows + a.spectra_offset) * 2 * G;
}

}  // namespace FF_ISA
}  // namespace futurefill
