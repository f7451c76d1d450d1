// What the launchers take, from the tensors of a stream as state/tensors.py allocates them in one
// tile. Plain C++; nothing is checked here.
#pragma once

#include <cstdint>

#include "params.h"

namespace futurefill::cuda {

// Contiguous float32 tensors of a stream and their sizes; the ring may hold 16 bits.
struct State {
  void* ring;            // (layers, batch, slots, lanes)
  float* open_block;     // (layers, batch, open_slots, lanes)
  float* kept;           // (layers, batch, kept_rows, 2, lanes)
  const float* spectra;  // (layers, spectra_rows, 2, filter_lanes)
  const float* taps;     // (layers, n_taps, filter_lanes)
  const float* skip;     // (layers, lanes) or null
  int64_t* positions;    // (batch,)
  int64_t* token_at;     // (layers, batch)
  float* undo;           // (layers, batch, undo_slots, lanes)
  float* history;        // (layers, batch, lanes)
  int64_t undo_slots;
  int64_t layers, batch, slots, lanes;
  int64_t kept_rows, spectra_rows, n_taps, filter_lanes;
  int64_t channels_per_filter;
  int64_t length;  // positions of the plan
  int64_t open_slots;
  IoType stored;  // what the ring holds

  // of a row, of what steps read: the open block of a ring in 16 bits
  bool narrow() const { return stored != IoType::kFloat32; }
  float* step_slots() const { return narrow() ? open_block : static_cast<float*>(ring); }
  int64_t step_row() const { return (narrow() ? open_slots : slots) * lanes; }
};

// A value further on in a ring.
inline void* further(void* ring, IoType stored, int64_t values) {
  return static_cast<char*>(ring) + values * (stored == IoType::kFloat32 ? 4 : 2);
}

// Of a plan (plan.py).
struct Level {
  int64_t block, transform, radix, n_spectra;
  int64_t kept_offset, spectra_offset;  // rows
  int64_t late, extra;                  // with slack, else 0
};

// Rows of the batch; null for all.
struct Rows {
  const int64_t* at;
  int64_t n;
};

// One token of every row: (rows, channels), values of a row are neighbours.
struct Tokens {
  const void *u, *pre, *post;  // pre and post or null
  void* y;
  int64_t u_row, pre_row, post_row, y_row;  // row strides in values
  int64_t channels;
  IoType io;
};

// A fill of channels first .. last - 1 of all layers.
inline FillParams fill_params(const State& s, const Level& level, Rows rows, int64_t first,
                              int64_t last) {
  FillParams p{};
  FillShape& a = p.shape;
  a.ring_row = s.slots * s.lanes;
  a.ring_layer = s.batch * a.ring_row;
  a.kept_row = s.kept_rows * 2 * s.lanes;
  a.kept_layer = s.batch * a.kept_row;
  a.spectra_layer = s.spectra_rows * 2 * s.filter_lanes;
  a.lanes = s.lanes;
  a.filter_lanes = s.filter_lanes;
  a.length = s.length;
  a.block = level.block;
  a.transform = int32_t(level.transform);
  a.channels = int32_t(s.lanes);
  a.channels_per_filter = int32_t(s.channels_per_filter);
  a.first_channel = int32_t(first);
  a.last_channel = int32_t(last);
  a.batch = int32_t(s.batch);
  a.radix = int32_t(level.radix);
  a.n_spectra = int32_t(level.n_spectra);
  a.late = int32_t(level.late);
  a.extra = int32_t(level.extra);
  a.open_slots = int32_t(s.open_slots);
  a.stored = s.stored;
  p.ring = s.ring;
  p.open_block = s.open_block;
  p.kept = s.kept + level.kept_offset * 2 * s.lanes;
  p.spectra = s.spectra + level.spectra_offset * 2 * s.filter_lanes;
  p.positions = s.positions;
  p.rows = rows.at;
  p.n_rows = rows.n;
  p.layers = s.layers;
  return p;
}

// Of `layers` layers from first_layer on, of channels first .. last - 1; scratch and twist as in
// LongFillParams.
inline LongFillParams long_fill_params(const State& s, const Level& level, Rows rows,
                                       int64_t first_layer, int64_t layers, int64_t first,
                                       int64_t last, void* scratch, const void* twist) {
  LongFillParams p{fill_params(s, level, rows, first, last), scratch, twist};
  p.fill.ring = further(s.ring, s.stored, first_layer * p.fill.shape.ring_layer);
  p.fill.open_block += first_layer * s.batch * s.open_slots * s.lanes;
  p.fill.kept += first_layer * p.fill.shape.kept_layer;
  p.fill.spectra += first_layer * p.fill.shape.spectra_layer;
  p.fill.layers = layers;
  return p;
}

// Of all layers.
inline HistoryParams history_params(const State& s, Rows rows) {
  HistoryParams p{};
  HistoryShape& a = p.shape;
  a.slots_row = s.step_row();
  a.open_slots = s.open_slots;
  a.lanes = s.lanes;
  a.filter_lanes = s.filter_lanes;
  a.slots = s.slots;
  a.undo_slots = s.undo_slots;
  a.n_rows = int32_t(rows.n);
  a.batch = int32_t(s.batch);
  a.taps = int32_t(s.n_taps);
  a.channels_per_filter = int32_t(s.channels_per_filter);
  p.slots = s.step_slots();
  p.taps = s.taps;
  p.positions = s.positions;
  p.rows = rows.at;
  p.token_at = s.token_at;
  p.undo = s.undo;
  p.history = s.history;
  p.layers = s.layers;
  return p;
}

// advance: whether the positions move on.
inline ApplyParams apply_params(const State& s, const Tokens& tokens, Rows rows, int64_t layer,
                                bool advance) {
  ApplyParams p{};
  ApplyShape& a = p.shape;
  a.u_row = tokens.u_row;
  a.pre_row = tokens.pre_row;
  a.post_row = tokens.post_row;
  a.y_row = tokens.y_row;
  a.slots_row = s.step_row();
  a.open_slots = s.open_slots;
  a.lanes = s.lanes;
  a.slots = s.slots;
  a.stored = s.stored;
  a.batch = int32_t(s.batch);
  a.channels = int32_t(tokens.channels);
  a.channels_per_filter = int32_t(s.channels_per_filter);
  a.advance = advance;
  p.u = tokens.u;
  p.pre = tokens.pre;
  p.post = tokens.post;
  p.y = tokens.y;
  p.slots = s.step_slots() + layer * s.batch * a.slots_row;
  p.taps = s.taps + layer * s.n_taps * s.filter_lanes;
  p.skip = s.skip ? s.skip + layer * s.lanes : nullptr;
  p.history = s.history + layer * s.batch * s.lanes;
  p.token_at = s.token_at + layer * s.batch;
  p.positions = s.positions;
  p.rows = rows.at;
  p.n_rows = rows.n;
  p.io = tokens.io;
  return p;
}

// p of the first layer and channel, moved to a layer and its channels from `first` on.
inline OutputsParams at_layer(OutputsParams p, int64_t layer, int64_t first) {
  const OutputsShape& a = p.shape;
  if (p.skip) p.skip += layer * a.lanes + first;
  const int64_t fill = layer * a.batch * a.length * a.lanes + first;
  if (p.prompt_fill) p.prompt_fill = further(p.prompt_fill, a.stored, fill);
  p.ring = further(p.ring, a.stored, layer * a.batch * a.slots * a.lanes + first);
  return p;
}

}  // namespace futurefill::cuda
