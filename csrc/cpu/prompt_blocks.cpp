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

// H_k = A_{k-1} + i A_k: the transform of one complex polynomial
template <class S>
void spectrum_tile(const SpectrumParams& p, int64_t tile, S* re) {
  constexpr int64_t W = kLanes<S>;
  const int64_t n = p.block, c0 = tile * W;
  const int64_t count = p.channels - c0 < W ? p.channels - c0 : W;
  S* im = re + n * W;
  S* z = im + n * W;
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
  S* out = static_cast<S*>(p.spectrum) + tile * p.spectrum_stride;
  for (int64_t q = 0; q < nodes; ++q) {
    split_below(tables, z + q * child, depth, q, m);
    for (int64_t i = 0; i < m * 2 * W; ++i) out[q * m * 2 * W + i] = z[q * child + i];
  }
}

// scratch: the tree, then inputs and outputs (n, W)
template <class S>
void block_tile(const PromptParams& p, int64_t tile, S* z) {
  constexpr int64_t W = kLanes<S>;
  const int64_t n = p.block, c0 = tile * W;
  const int64_t count = p.channels - c0 < W ? p.channels - c0 : W;
  const int log = log2_of(n), depth = root_depth(log);
  const int64_t nodes = int64_t{1} << depth, child = root_stride<S>(n / nodes);
  S* inputs = z + nodes * child;
  S* outputs = inputs + n * W;
  S* slot = static_cast<S*>(p.slots) + (tile * p.room + p.position) * W;

  Fill<S> f;
  f.n = n, f.kept_slots = p.n_kept, f.n_rows = 1, f.tables = &twiddle_tables<S>(log);
  f.spectra = static_cast<const S*>(p.spectra) + tile * p.spectra_stride;
  const bool last = (tile + 1) * W >= p.channels;
  f.next_spectra = last ? f.spectra : f.spectra + p.spectra_stride;
  RowSpectra<S>& row = f.rows[0];
  row.z = z, row.next = nullptr, row.blocks = p.blocks, row.newest = p.newest;
  row.keep = p.newest < p.n_kept;
  row.kept = static_cast<S*>(p.kept) + tile * p.n_kept * n * 2 * W;

  const int64_t since = p.u ? p.position % n : 0;
  const S* given = slot - n * W;
  if (p.u) {
    for (int64_t i = 0; i < since * W; ++i) inputs[i] = slot[i - since * W];
    const S* rows[kLanes<S>];
    for (int64_t c = 0; c < count; ++c) {
      rows[c] = static_cast<const S*>(p.u) + (c0 + c) * p.u_stride;
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
  scatter<S>(slot, count, p.length, static_cast<S*>(p.y) + c0 * p.y_stride, p.y_stride);
  Vec<S> sum{};
  for (int64_t i = 0; i < p.length * W; i += W) {
    sum = sum + load(slot + i);
    store(slot + i, load(inputs + since * W + i));
  }
  for (int64_t c = 0; c < count; ++c) static_cast<S*>(p.sums)[tile] += sum[c];
}

template <class S, class Params>
void each_tile(const Params& p, int64_t tile_begin, int64_t tile_end,
               void (*run)(const Params&, int64_t, S*)) {
  // at most eight parts of a root, and two times (n, W)
  const int64_t values = 8 * root_stride<S>(p.block / 8 + 1) + 2 * p.block * kLanes<S>;
  S* scratch = static_cast<S*>(thread_scratch(values * int64_t{sizeof(S)}));
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) run(p, tile, scratch);
}

}  // namespace

void prompt_spectrum(const SpectrumParams& p, int64_t tile_begin, int64_t tile_end) {
  p.type == Scalar::kFloat64
      ? each_tile<double, SpectrumParams>(p, tile_begin, tile_end, spectrum_tile<double>)
      : each_tile<float, SpectrumParams>(p, tile_begin, tile_end, spectrum_tile<float>);
}

void prompt_block(const PromptParams& p, int64_t tile_begin, int64_t tile_end) {
  p.type == Scalar::kFloat64
      ? each_tile<double, PromptParams>(p, tile_begin, tile_end, block_tile<double>)
      : each_tile<float, PromptParams>(p, tile_begin, tile_end, block_tile<float>);
}

}  // namespace FF_ISA
}  // namespace futurefill
