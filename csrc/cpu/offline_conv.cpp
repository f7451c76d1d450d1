// y[start .. stop) of the causal convolution of u with h, whole sequences at once.
//
// Inputs and taps are cut into blocks of T. With X_j and A_k the transforms modulo x^T - i of their
// blocks, output block o is the imaginary part of the inverse of sum_j X_j (A_{o-j-1} + i A_{o-j}):
// the same products as in a future fill, whose filter spectra are pairs of neighbouring A.
#include "channel_rows.h"
#include "engine.h"
#include "scratch.h"
#include "transform_tree.h"

namespace futurefill {
namespace FF_ISA {

namespace {

constexpr int64_t kChunk = 16;  // entries of every block that are multiplied while in cache

template <class S>
struct Tree {
  int log, depth;  // of the transform, of its root pass
  int64_t n, nodes, m, stride, values;
  const TwiddleTables<S>* tables;

  explicit Tree(int64_t block) : log(log2_of(block)), depth(root_depth(log)) {
    n = int64_t{1} << log;
    nodes = int64_t{1} << depth;
    m = n / nodes;
    stride = root_stride<S>(m);
    values = nodes * stride;
    tables = &twiddle_tables<S>(log);
  }
};

// real: (n, W) -> z: the tree's values
template <class S>
void forward(const Tree<S>& tree, const S* real, S* z) {
  const Twiddle<S>& root = tree.tables->depth[0][0];
  split_any_root(real, real, z, tree.n, tree.depth, root);
  for (int64_t q = 0; q < tree.nodes; ++q) {
    split_below(*tree.tables, z + q * tree.stride, tree.depth, q, tree.m);
  }
}

// out (n, W) = imaginary parts; destroys z
template <class S>
void inverse(const Tree<S>& tree, S* z, S* out) {
  for (int64_t q = 0; q < tree.nodes; ++q) {
    merge_below(*tree.tables, z + q * tree.stride, tree.depth, q, tree.m);
  }
  for (int64_t i = 0; i < tree.n * kLanes<S>; ++i) out[i] = 0;
  const Twiddle<S>& root = tree.tables->depth[0][0];
  merge_any_root(z, out, out, tree.n, tree.depth, root);
}

// Products of one chunk of all blocks, in place: x_o = sum_j x_j (a_{o-j-1} + i a_{o-j}). Larger o
// first, as the inputs of smaller ones are still needed. Blocks are `block` values apart.
template <class S>
void multiply_chunk(S* x, const S* a, int64_t block, int64_t inputs, int64_t filters, int64_t first,
                    int64_t last, int64_t entries) {
  constexpr int64_t W2 = 2 * kLanes<S>;
  for (int64_t o = last; o >= first; --o) {
    const int64_t lowest = o > filters ? o - filters : 0;
    const int64_t highest = o < inputs ? o : inputs - 1;
    for (int64_t e = 0; e < entries; ++e) {
      Complex<S> sum{};
      const S* xe = x + e * W2;
      const S* ae = a + e * W2;
      Complex<S> high{};  // a_{o-j} of j = lowest
      if (o - lowest < filters) high = load_complex(ae + (o - lowest) * block);
      for (int64_t j = lowest; j <= highest; ++j) {
        Complex<S> low{};
        if (o > j) low = load_complex(ae + (o - j - 1) * block);
        const Complex<S> h = plus_i(low, high);
        const Complex<S> v = load_complex(xe + j * block);
        sum.re = sum.re + v.re * h.re - v.im * h.im;
        sum.im = sum.im + v.im * h.re + v.re * h.im;
        high = low;
      }
      store_complex(x + o * block + e * W2, sum);
    }
  }
}

// Blocks of inputs or outputs, and of taps.
struct Blocks {
  int64_t inputs, filters, first, last, stored;

  explicit Blocks(const ConvParams& p)
      : inputs((p.length + p.block - 1) / p.block),
        filters((p.taps + p.block - 1) / p.block),
        first(p.start / p.block),
        last((p.stop - 1) / p.block),
        stored(inputs > last + 1 ? inputs : last + 1) {}
};

// Whether few outputs follow from many inputs: sums of all blocks' products take less than these.
bool sums_as_it_goes(const ConvParams& p) {
  const Blocks blocks(p);
  return !p.spectra && blocks.last <= blocks.first + 1 && blocks.inputs > 2;
}

template <class S>
int64_t scratch_bytes(const ConvParams& p, const Tree<S>& tree) {
  const Blocks blocks(p);
  const int64_t trees = blocks.stored + (p.spectra ? 0 : blocks.filters);
  const int64_t values = trees * tree.values + tree.n * kLanes<S>;
  return values * int64_t{sizeof(S)};
}

template <class S>
void conv_tile(const ConvParams& p, const Tree<S>& tree, int64_t tile, S* real) {
  constexpr int64_t W = kLanes<S>;
  const int64_t c0 = tile * W, count = p.channels - c0 < W ? p.channels - c0 : W;
  const Blocks blocks(p);
  const int64_t inputs = blocks.inputs, filters = blocks.filters;
  const int64_t first = blocks.first, last = blocks.last;
  S* x = real + tree.n * W;
  S* a = x + blocks.stored * tree.values;
  if (p.spectra) a = static_cast<S*>(p.spectra) + tile * p.spectra_tile;
  const S* rows[kLanes<S>];
  for (int64_t c = 0; c < count; ++c) {
    rows[c] = static_cast<const S*>(p.h) + (c0 + c) / p.channels_per_filter * p.h_stride;
  }
  for (int64_t k = p.made ? filters : 0; k < filters; ++k) {
    gather<S>(rows, count, k * p.block, tree.n, p.taps, S(1) / S(tree.n), real);
    forward(tree, real, a + k * tree.values);
  }
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t c = 0; c < count; ++c) {
      rows[c] = static_cast<const S*>(p.u) + b * p.u_row + tile * p.u_tile + c * p.u_channel;
    }
    for (int64_t j = 0; j < inputs; ++j) {
      gather<S>(rows, count, j * p.block, tree.n, p.length, S(1), real, p.u_step);
      forward(tree, real, x + j * tree.values);
    }
    for (int64_t q = 0; q < tree.nodes; ++q) {
      for (int64_t e = 0; e < tree.m; e += kChunk) {
        const int64_t at = q * tree.stride + e * 2 * W;
        multiply_chunk(x + at, a + at, tree.values, inputs, filters, first, last,
                       tree.m - e < kChunk ? tree.m - e : kChunk);
      }
    }
    for (int64_t o = first; o <= last; ++o) {
      inverse(tree, x + o * tree.values, real);
      const int64_t begin = o * p.block < p.start ? p.start : o * p.block;
      const int64_t end = (o + 1) * p.block < p.stop ? (o + 1) * p.block : p.stop;
      S* y = static_cast<S*>(p.y) + (b * p.channels + c0) * (p.stop - p.start) + begin - p.start;
      scatter<S>(real + (begin - o * p.block) * W, count, end - begin, y, p.stop - p.start);
    }
  }
}

// sum += x (low + i high), where null is zero
template <class S>
void add_products(const Tree<S>& tree, const S* x, const S* low, const S* high, S* sum) {
  constexpr int64_t W2 = 2 * kLanes<S>;
  if (!low && !high) return;
  for (int64_t q = 0; q < tree.nodes; ++q) {
    for (int64_t i = q * tree.stride; i < q * tree.stride + tree.m * W2; i += W2) {
      const Complex<S> l = low ? load_complex(low + i) : Complex<S>{};
      const Complex<S> h = plus_i(l, high ? load_complex(high + i) : Complex<S>{});
      const Complex<S> v = load_complex(x + i);
      Complex<S> s = load_complex(sum + i);
      s.re = s.re + v.re * h.re - v.im * h.im;
      s.im = s.im + v.im * h.re + v.re * h.im;
      store_complex(sum + i, s);
    }
  }
}

constexpr int64_t kRowsOfSums = 4;  // rows that share the taps' transforms

// One or two blocks of outputs of rows: a block of inputs and one of taps after the other, with all
// that is written in a near cache. scratch: (n, W), then four trees and two of each row.
template <class S>
void few_outputs_tile(const ConvParams& p, const Tree<S>& tree, int64_t tile, int64_t first_row,
                      int64_t rows, S* real) {
  constexpr int64_t W = kLanes<S>;
  const int64_t c0 = tile * W, count = p.channels - c0 < W ? p.channels - c0 : W;
  const Blocks blocks(p);
  const int64_t outputs = blocks.last - blocks.first + 1, window = outputs + 1;
  S* x = real + tree.n * W;
  S* sums = x + tree.values;
  S* a = sums + rows * outputs * tree.values;
  const S *inputs[kLanes<S>], *taps[kLanes<S>];
  for (int64_t c = 0; c < count; ++c) {
    taps[c] = static_cast<const S*>(p.h) + (c0 + c) / p.channels_per_filter * p.h_stride;
  }
  const bool in_vectors = p.u_channel == 1 && p.u_step == W;
  for (int64_t i = 0; i < rows * outputs * tree.values; ++i) sums[i] = 0;
  const auto transform_of = [&](int64_t k) -> S* {
    return k < 0 || k >= blocks.filters ? nullptr : a + k % window * tree.values;
  };
  const auto make = [&](int64_t k) {
    S* z = transform_of(k);
    if (!z) return;
    gather<S>(taps, count, k * p.block, tree.n, p.taps, S(1) / S(tree.n), real);
    forward(tree, real, z);
  };
  for (int64_t k = blocks.first; k <= blocks.last; ++k) make(k);
  for (int64_t j = 0; j < blocks.inputs && j <= blocks.last; ++j) {
    make(blocks.first - j - 1);
    for (int64_t r = 0; r < rows; ++r) {
      const S* row = static_cast<const S*>(p.u) + (first_row + r) * p.u_row + tile * p.u_tile;
      for (int64_t c = 0; c < count; ++c) inputs[c] = row + c * p.u_channel;
      const S* block = row + j * p.block * W;
      if (!in_vectors || (j + 1) * p.block > p.length) {
        gather<S>(inputs, count, j * p.block, tree.n, p.length, S(1), real, p.u_step);
        block = real;
      }
      forward(tree, block, x);
      for (int64_t o = 0; o < outputs; ++o) {
        const int64_t k = blocks.first + o - j;
        S* sum = sums + (r * outputs + o) * tree.values;
        add_products(tree, x, transform_of(k - 1), transform_of(k), sum);
      }
    }
  }
  for (int64_t i = 0; i < rows * outputs; ++i) {
    inverse(tree, sums + i * tree.values, real);
    const int64_t at = (blocks.first + i % outputs) * p.block;
    const int64_t begin = at < p.start ? p.start : at;
    const int64_t end = at + p.block < p.stop ? at + p.block : p.stop;
    const int64_t row = (first_row + i / outputs) * p.channels + c0;
    S* y = static_cast<S*>(p.y) + row * (p.stop - p.start) + begin - p.start;
    scatter<S>(real + (begin - at) * W, count, end - begin, y, p.stop - p.start);
  }
}

template <class S>
void conv_tiles(const ConvParams& p, int64_t tile_begin, int64_t tile_end) {
  const Tree<S> tree(p.block);
  if (sums_as_it_goes(p)) {
    const int64_t most = p.batch < kRowsOfSums ? p.batch : kRowsOfSums;
    const int64_t values = tree.n * kLanes<S> + (4 + 2 * most) * tree.values;
    S* scratch = static_cast<S*>(thread_scratch(values * int64_t{sizeof(S)}));
    for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
      for (int64_t r = 0; r < p.batch; r += most) {
        const int64_t rows = p.batch - r < most ? p.batch - r : most;
        few_outputs_tile<S>(p, tree, tile, r, rows, scratch);
      }
    }
    return;
  }
  const PageMemory scratch(scratch_bytes(p, tree));
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    conv_tile<S>(p, tree, tile, static_cast<S*>(scratch.data));
  }
}

}  // namespace

void offline_conv(const ConvParams& p, int64_t tile_begin, int64_t tile_end) {
  p.type == Scalar::kFloat64 ? conv_tiles<double>(p, tile_begin, tile_end)
                             : conv_tiles<float>(p, tile_begin, tile_end);
}

}  // namespace FF_ISA
}  // namespace futurefill
