// A prompt that comes in many calls: blocks whose inputs are all known, and the fills before them.
//
// As in a stream, slots hold inputs and, behind them, pending outputs. A block adds to itself with
// H_0, the taps 0 .. block - 1, and k blocks later with H_k, k >= 1, as a future fill does.
#include "channel_rows.h"
#include "fill_tree.h"
#include "scratch.h"

namespace futurefill {
namespace FF_ISA {

namespace {

constexpr int64_t kKeptScratch = 32 << 20;  // bytes; threads keep no more from call to call

// Scratch of a tile: a tree, which is at most eight parts of a root, and twice (n, W).
template <class S>
constexpr int64_t tree_values(int64_t n) {
  return 8 * root_stride<S>(n / 8 + 1);
}

// H_k = A_{k-1} + i A_k, the transform of one complex polynomial, to out (n, 2, W).
template <class S>
void make_spectrum(const SpectrumParams& p, int64_t tile, S* z, S* out) {
  constexpr int64_t W = kLanes<S>;
  const int64_t n = p.block, c0 = tile * W;
  const int64_t count = p.channels - c0 < W ? p.channels - c0 : W;
  S* re = z + tree_values<S>(n);
  S* im = re + n * W;
  const S* rows[kLanes<S>];
  for (int64_t c = 0; c < count; ++c) {
    rows[c] = static_cast<const S*>(p.h) + (c0 + c) / p.channels_per_filter * p.h_stride;
  }
  const S scale = S(1) / S(n);
  if (p.k > 0) {
    gather<S>(rows, count, (p.k - 1) * n, n, p.taps, scale, re);
  } else {
    for (int64_t i = 0; i < n * W; ++i) re[i] = 0;
  }
  gather<S>(rows, count, p.k * n, n, p.taps, scale, im);
  const int log = log2_of(n), depth = root_depth(log);
  const TwiddleTables<S>& tables = twiddle_tables<S>(log);
  const int64_t nodes = int64_t{1} << depth, m = n / nodes, child = root_stride<S>(m);
  split_complex_root(re, im, W, z, n, depth, child, tables.depth[0][0]);
  for (int64_t q = 0; q < nodes; ++q) {
    split_below(tables, z + q * child, depth, q, m);
    for (int64_t i = 0; i < m * 2 * W; ++i) out[q * m * 2 * W + i] = z[q * child + i];
  }
}

template <class S>
void spectrum_tile(const SpectrumParams& p, int64_t tile, S* z) {
  make_spectrum<S>(p, tile, z, static_cast<S*>(p.spectrum) + tile * p.spectrum_stride);
}

template <class S>
void block_of_row(const PromptParams& p, int64_t tile, int64_t r, const S* spectra, S* z) {
  constexpr int64_t W = kLanes<S>;
  const int64_t n = p.block, c0 = tile * W;
  const int64_t count = p.channels - c0 < W ? p.channels - c0 : W;
  const int log = log2_of(n), depth = root_depth(log);
  const int64_t nodes = int64_t{1} << depth, child = root_stride<S>(n / nodes);
  S* inputs = z + tree_values<S>(n);
  S* outputs = inputs + n * W;
  S* slot = static_cast<S*>(p.slots) + r * p.slots_row + (tile * p.room + p.position) * W;

  Fill<S> f;
  f.n = n, f.kept_slots = p.n_kept, f.n_rows = 1, f.tables = &twiddle_tables<S>(log);
  const bool last = r + 1 < p.rows || (tile + 1) * W >= p.channels;
  f.spectra = spectra, f.next_spectra = last ? spectra : spectra + p.spectra_stride;
  RowSpectra<S>& row = f.rows[0];
  row.z = z, row.next = nullptr, row.blocks = p.blocks, row.newest = p.newest;
  row.keep = p.newest < p.n_kept;
  row.kept = static_cast<S*>(p.kept) + r * p.kept_row + tile * p.n_kept * n * 2 * W;

  const int64_t since = p.u ? p.position % n : 0;
  const S* given = slot - n * W;
  if (p.u) {
    for (int64_t i = 0; i < since * W; ++i) inputs[i] = slot[i - since * W];
    const S* rows[kLanes<S>];
    for (int64_t c = 0; c < count; ++c) {
      rows[c] = static_cast<const S*>(p.u) + r * p.u_row + (c0 + c) * p.u_channel;
    }
    gather<S>(rows, count, 0, n - since, p.length, S(1), inputs + since * W);
    given = inputs;
  }
  const bool whole = !p.u || p.length == n;
  if (!whole) {
    for (int64_t i = 0; i < n * W; ++i) outputs[i] = 0;
  }
  S* out = whole ? slot : outputs;
  const Twiddle<S>& root = f.tables->depth[0][0];
  split_any_root<S>(given, out, z, n, depth, root);
  for (int64_t q = 0; q < nodes; ++q) all_rows<S, false>(f, q * child, depth, q, n / nodes);
  merge_any_root<S>(z, out, out, n, depth, root);
  if (!p.u) return;
  if (!whole) {
    for (int64_t i = 0; i < p.length * W; ++i) slot[i] += outputs[since * W + i];
  }
  S* y = static_cast<S*>(p.y) + r * p.y_row + c0 * p.y_channel;
  scatter<S>(slot, count, p.length, y, p.y_channel);
  Vec<S> sum{};
  for (int64_t i = 0; i < p.length * W; i += W) {
    sum = sum + load(slot + i);
    store(slot + i, load(inputs + since * W + i));
  }
  const int64_t tiles = (p.channels + W - 1) / W;
  for (int64_t c = 0; c < count; ++c) static_cast<S*>(p.sums)[r * tiles + tile] += sum[c];
}

// Rows one after the other, so that the tile's spectra are read from a cache.
template <class S>
void block_tile(const PromptParams& p, int64_t tile, S* z) {
  const S* spectra = static_cast<const S*>(p.spectra) + tile * p.spectra_stride;
  if (!p.spectra) {
    S* made = z + tree_values<S>(p.block) + 2 * p.block * kLanes<S>;
    make_spectrum<S>(p.unwritten, tile, z, made);
    spectra = made;
  }
  for (int64_t r = 0; r < p.rows; ++r) block_of_row<S>(p, tile, r, spectra, z);
}

// spectra: that a tile makes in scratch.
template <class S, class Params>
void each_tile(const Params& p, int64_t spectra, int64_t tile_begin, int64_t tile_end,
               void (*run)(const Params&, int64_t, S*)) {
  const int64_t values = tree_values<S>(p.block) + (1 + spectra) * 2 * p.block * kLanes<S>;
  const int64_t bytes = values * int64_t{sizeof(S)};
  const auto run_all = [&](void* scratch) {
    for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
      run(p, tile, static_cast<S*>(scratch));
    }
  };
  if (bytes <= kKeptScratch) return run_all(thread_scratch(bytes));
  const PageMemory scratch(bytes);
  run_all(scratch.data);
}

}  // namespace

void prompt_spectrum(const SpectrumParams& p, int64_t tile_begin, int64_t tile_end) {
  p.type == Scalar::kFloat64
      ? each_tile<double, SpectrumParams>(p, 0, tile_begin, tile_end, spectrum_tile<double>)
      : each_tile<float, SpectrumParams>(p, 0, tile_begin, tile_end, spectrum_tile<float>);
}

void prompt_block(const PromptParams& p, int64_t tile_begin, int64_t tile_end) {
  const int64_t made = p.spectra ? 0 : 1;
  p.type == Scalar::kFloat64
      ? each_tile<double, PromptParams>(p, made, tile_begin, tile_end, block_tile<double>)
      : each_tile<float, PromptParams>(p, made, tile_begin, tile_end, block_tile<float>);
}

}  // namespace FF_ISA
}  // namespace futurefill
