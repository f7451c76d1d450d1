// What the kernels take: sizes and strides by value, and with the tensors what a launcher takes.
// Plain C++, no CUDA.
#pragma once

#include <cstdint>

namespace futurefill::cuda {

enum class IoType : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// Sizes and strides, in values, of a future fill; all int64 so that no address is widened at run
// time.
struct FillShape {
  int64_t ring_layer, ring_row;  // layers and batch rows of the ring
  int64_t kept_layer, kept_row;
  int64_t spectra_layer;
  int64_t lanes, filter_lanes;  // values per slot and per spectrum row
  int64_t length, block;
  int32_t channels, channels_per_filter;
  int32_t first_channel, last_channel;  // done are first_channel .. last_channel - 1
  int32_t batch, radix, n_spectra;
  int32_t late, extra;  // of a level with slack, else 0
  int32_t transform;    // points, the next power of two from block on
  int32_t open_slots;   // of a row's open block
  IoType stored;        // what the ring holds
};

struct FillParams {
  void* ring;
  float* open_block;
  float* kept;           // from the level's first row on
  const float* spectra;  // likewise
  const int64_t* positions;
  const int64_t* rows;  // (n_rows,) or null for all
  int64_t n_rows, layers;
  FillShape shape;
};

// A fill in three passes, of some layers; the tensors are those of the first.
struct LongFillParams {
  FillParams fill;
  void* scratch;      // (layers, n_rows, transform, channels done) complex
  const void* twist;  // (transform,) complex: of coefficient k of node s at s transform / nodes + k
};

struct HistoryShape {
  int64_t slots_row;   // values of a batch row's slots
  int64_t open_slots;  // 0 where they are the ring's
  int64_t lanes, filter_lanes;
  int64_t slots;  // positions from here on are refused
  int64_t undo_slots;
  int32_t n_rows, batch, taps, channels_per_filter;
};

struct HistoryParams {
  const float *slots, *taps;        // those that steps read
  const int64_t *positions, *rows;  // rows: (n_rows,) or null for all
  int64_t* token_at;                // (layers, batch)
  float *undo, *history;            // (layers, batch, undo_slots, lanes), (layers, batch, lanes)
  int64_t layers;
  HistoryShape shape;
};

struct ApplyShape {
  int64_t u_row, pre_row, post_row, y_row;  // row strides in values
  int64_t slots_row, lanes;
  int64_t open_slots;  // 0 where the slots are the ring's
  int64_t slots;       // positions from here on are refused
  int32_t batch, channels, channels_per_filter, advance;
  IoType stored;  // what the ring holds
  int32_t unused;
};

struct ApplyParams {
  const void *u, *pre, *post;  // pre and post or null
  void* y;
  float* slots;              // of the layer, as all that follow; the ring's or the open block's
  const float *taps, *skip;  // skip or null
  const float* history;      // (batch, lanes)
  const int64_t* token_at;   // (batch,)
  int64_t* positions;        // (batch,)
  const int64_t* rows;       // (n_rows,) or null for all
  int64_t n_rows;
  IoType io;
  ApplyShape shape;
};

// Of a prompt's tensor (rows, channels, time), in values; that of time is 1.
struct Strides {
  int64_t row, channel;
};

struct InputsShape {
  int64_t positions, width;  // of u, of x
  int64_t channels, n_rows;
};

struct InputsParams {
  const void *u, *pre;     // pre or null
  const int64_t* lengths;  // (n_rows,) or null for all positions
  float *x, *held;         // held or null
  Strides u_at, pre_at, x_at, held_at;
  IoType io;
  InputsShape shape;
};

struct OutputsShape {
  int64_t positions, length, slots, lanes;  // of u; of the future fill; of the ring; of both
  int64_t batch, channels, n_rows;
  IoType stored;  // what ring and prompt fill hold
};

struct OutputsParams {
  const float* z;
  const void *u, *pre, *post;  // pre and post or null
  const float* skip;           // of the layer, from the first channel on, or null
  void* y;
  void *prompt_fill, *ring;             // of the layer, likewise; prompt_fill or null
  const int64_t *rows, *starts, *ends;  // (n_rows,); starts or null for 0
  Strides z_at, u_at, pre_at, post_at, y_at;
  IoType io;
  OutputsShape shape;
};

}  // namespace futurefill::cuda
