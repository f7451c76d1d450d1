// The CPU engine: parameters of its two operations and the table of implementations, one per
// instruction set. Kernels include no torch header; csrc/bindings fills these structs from tensors.
//
// W is the number of lanes of the instruction set; lanes are channels. "Row" is a batch row.
#pragma once

#include <cstdint>

#include "token.h"

namespace futurefill {

enum class Scalar : int32_t { kFloat32, kFloat64, kBFloat16, kFloat16 };

// A row of the batch and the position it is at.
struct RowAt {
  int64_t io;        // row of u, pre, post, y
  int64_t state;     // row of ring, kept, positions
  int64_t position;  // p of the op's contract
};

// y = post * (ring[p] + sum_s taps[s] x_{p-s} + skip * x), then undo[p % undo_slots] = ring[p] and
// ring[p] = x, where x = pre * u. With a ring in 16 bits these slots are those of the open block,
// p % T_0, and x is rounded to what the ring can hold.
struct StepParams {
  Scalar io;      // of u, pre, post, y
  Scalar state;   // of ring or open block, taps, skip: float32 or float64
  Scalar stored;  // of the stream's ring: the state's, or 16 bits
  const RowAt* rows;
  int64_t n_rows;
  const void* u;                                        // (R, D)
  const void* pre;                                      // (R, D) or null
  const void* post;                                     // (R, D) or null
  void* y;                                              // (R, D)
  int64_t u_stride, pre_stride, post_stride, y_stride;  // elements between rows
  void* ring;  // (B, tiles, slots, W), this layer; the open block where `stored` is narrower
  void* undo;  // (B, tiles, undo_slots, W), this layer, or null
  int64_t undo_slots;  // at least 1
  const void* taps;    // (filter tiles, block, W or 1), this layer
  const void* skip;    // (tiles * W,) or null, this layer
  int64_t channels, tiles, slots, lanes;
  int64_t block;                // T_0
  int64_t channels_per_filter;  // 0: a filter per lane; else channels per filter, a multiple of W
};

// Taps of all layers, tap 0 first, of levels that make their spectra.
struct Taps {
  Scalar type;  // the state's, or bfloat16
  const void* data;
  int64_t layer_stride, filter_stride;  // elements
  int64_t filters, channels, count;     // of a layer, that use a filter, of a filter
};

// ring[p : p + block] += contribution of the finished blocks of the group, cut at `length`. With a
// ring in 16 bits the first T_0 of them go to the open block, where there is one.
struct FillParams {
  Scalar state;
  Scalar stored;      // of the ring: the state's, or 16 bits
  const RowAt* rows;  // all at a position where this level fires
  int64_t n_rows;
  void* ring;           // (layers, B, tiles, slots, W)
  void* kept;           // (layers, B, tiles, kept_rows, 2, W)
  const void* spectra;  // (layers, filter_tiles, spectra_rows, 2, W or 1)
  int64_t layers, batch, tiles, lanes, filter_tiles, slots, kept_rows, spectra_rows;
  int64_t channels_per_filter;  // as in StepParams
  int64_t length;
  void* open_block;    // (layers, B, tiles, open_slots, W) of the state's type
  int64_t open_slots;  // T_0, or 0
  bool turns;          // the fill first stores the open block and opens that of its position
  int64_t block, radix, n_spectra, kept_offset, spectra_offset;
  bool direct;  // the level's spectra rows hold taps 0 .. (n_spectra + 1) * block - 1 instead
  bool made;    // the level has no spectra: a firing makes them of `taps`
  Taps taps;
};

// Rows that a transform under way may take beyond its length: root_stride of its at most eight
// parts.
constexpr int64_t kWorkGaps = 32;

constexpr int64_t kMaxRows = 8;  // that share one reading of the spectra in a fill

// Values of scratch that a fill of a transform over n takes: a tree for each of `rows`, padded
// slots, and spectra that it makes.
inline int64_t fill_scratch(int64_t rows, int64_t n, int64_t lanes, int64_t made) {
  return (rows * (n + 8 + kWorkGaps) * 2 + n + made * n * 2) * lanes;
}

// A firing whose work is cut into stages per job, so that it can be spread over many steps. Rows
// are at the end of a block of the level; the outputs begin `late` tokens after it.
struct StageParams {
  FillParams fill;
  void* work;  // (B, side by side, work_rows, 2, W): transforms between stages
  int64_t side_by_side, work_rows, work_offset;
  int64_t late, extra;

  // spectrum products of the firing after n blocks
  int64_t products(int64_t n) const {
    const int64_t groups = n < extra ? 0 : (n - extra) / fill.radix;
    const int64_t blocks = n - groups * fill.radix;
    return blocks < fill.n_spectra ? blocks : fill.n_spectra;
  }
};

// y[b, d, start .. stop) of the causal convolution of u[b, d] with h[d / channels_per_filter], u
// zero after its end. block: a power of two. u and y (B, D, P), h (G, taps); strides in elements.
struct ConvParams {
  Scalar type;  // of u, h and y: float32 or float64
  const void* u;
  const void* h;
  void* y;
  int64_t batch, channels, length, taps, channels_per_filter;
  int64_t u_row, u_tile, u_channel, u_step, h_stride;  // u_tile: from W channels to the next
  int64_t start, stop, block;
  void* spectra;  // of the taps, `spectra_tile` values from tile to tile, or null
  int64_t spectra_tile;
  bool made;  // whether they are there: else they are written
};

// Filters of a prompt that comes in many calls: H_k of taps (k-1) block .. (k+1) block - 1 of h (G,
// taps), for `channels` that share them. block: a power of two; strides in elements.
struct SpectrumParams {
  Scalar type;  // of h and spectrum: float32 or float64
  const void* h;
  void* spectrum;  // (tiles, block, 2, W)
  int64_t channels, channels_per_filter, taps, h_stride, spectrum_stride;
  int64_t block, k;
};

// Such a prompt's slots are its inputs before `position` and pending outputs from there on; rows of
// the batch are at the same one.
//
// With u (R, D, length), inputs inside one block: y (R, D, length) = what is pending + the sum over
// the inputs of the block so far, and u takes its place. A whole block becomes kept[newest], where
// that is there, and with blocks > 1 those kept before it add to y, too.
// Without u the block before `position` becomes kept[newest], and it and the blocks - 1 kept before
// it add to the block at `position`; without spectra it is the first block, and its spectrum is
// made.
struct PromptParams {
  Scalar type;  // float32 or float64
  int64_t rows;
  const void* u;
  void* y;
  int64_t length, u_row, u_channel, y_row, y_channel;  // elements from one to the next
  void* slots;                                         // (R, tiles, room, W)
  const void* spectra;       // (tiles, n, block, 2, W): of the newest block first; or null
  int64_t spectra_stride;    // elements from a tile to the next
  SpectrumParams unwritten;  // without spectra: the one to make, but for where to write it
  void* kept;                // (R, tiles, n_kept, block, 2, W)
  int64_t slots_row, kept_row, channels, room, n_kept;
  int64_t position, block, newest, blocks;
  void* sums;  // (R, tiles), which grow by the outputs: finite only where all of these are
};

// Steps and fills of streams whose tiles have that many lanes.
struct StreamKernels {
  int lanes32, lanes64;
  void (*short_range_step)(const StepParams&, int64_t tile_begin, int64_t tile_end);
  // jobs are (layer, tile) pairs, layer-major
  void (*future_fill)(const FillParams&, int64_t job_begin, int64_t job_end);
  // stages 0 .. fill_stages - 1 of a job in order; jobs `side_by_side` apart share work memory
  int64_t (*fill_stages)(const StageParams&);
  void (*fill_stage)(const StageParams&, int64_t stage, int64_t job_begin, int64_t job_end);

  int lanes(Scalar state) const { return state == Scalar::kFloat64 ? lanes64 : lanes32; }
};

struct Engine {
  const char* name;
  int lanes32, lanes64;
  StreamKernels wide, narrow;  // for most streams, and for those of a channel or a few
  void (*offline_conv)(const ConvParams&, int64_t tile_begin, int64_t tile_end);
  void (*prompt_spectrum)(const SpectrumParams&, int64_t tile_begin, int64_t tile_end);
  void (*prompt_block)(const PromptParams&, int64_t tile_begin, int64_t tile_end);
  TokenEngine token;

  const StreamKernels& of_lanes(Scalar state, int64_t lanes) const {
    return lanes == wide.lanes(state) ? wide : narrow;
  }
};

// The best engine this machine runs, or the one FUTUREFILL_CPU_ISA names (avx512, avx2, portable).
// Throws std::runtime_error when that one is unknown, not built, or not supported by the machine.
const Engine& engine();

}  // namespace futurefill
