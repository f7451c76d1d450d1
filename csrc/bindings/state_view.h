// A stream's tensors as the engine's structs, and what every step does with them. Stable ABI only.
#pragma once

#include <algorithm>
#include <vector>

#include "bindings/levels.h"
#include "bindings/tensors.h"
#include "bindings/threads.h"
#include "cpu/engine.h"
#include "infra/parallel.h"

namespace futurefill {
namespace {

// Rows of a call at their positions, padding rows left out. rows: null for all.
inline void collect_rows(const int64_t* rows, const int64_t* positions, int64_t batch,
                         int64_t n_rows, int64_t limit, std::vector<RowAt>& result) {
  result.clear();
  for (int64_t r = 0; r < n_rows; ++r) {
    const int64_t state = rows ? rows[r] : r;
    if (state == -1) continue;
    STD_TORCH_CHECK(state >= 0 && state < batch, "expected rows in 0 .. ", batch - 1, ", got ",
                    state);
    const int64_t p = positions[state];
    STD_TORCH_CHECK(p >= 0 && p < limit, "expected positions in 0 .. ", limit - 1, ", got ", p,
                    " in row ", state);
    result.push_back({r, state, p});
  }
}

// The same from an op's tensors. One result per thread: nothing is allocated once it has grown.
inline std::vector<RowAt>& collect_rows(const OptionalTensor& rows, const View& positions,
                                        int64_t batch, int64_t n_rows, int64_t limit) {
  thread_local std::vector<RowAt> result;
  check_dim(positions, 1);
  check_size(positions, 0, batch);
  check_contiguous(positions);
  check_int64(positions);
  const int64_t* position = static_cast<const int64_t*>(positions.data);
  const int64_t* row = nullptr;
  if (rows) {
    const View v("rows", *rows);
    check_dim(v, 1);
    check_contiguous(v);
    check_int64(v);
    if (n_rows < 0) n_rows = v.sizes[0];
    check_size(v, 0, n_rows);
    row = static_cast<const int64_t*>(v.data);
  } else {
    if (n_rows < 0) n_rows = batch;
    STD_TORCH_CHECK(n_rows == batch, "expected ", batch, " rows, got ", n_rows);
  }
  collect_rows(row, position, batch, n_rows, limit, result);
  return result;
}

inline int64_t row_stride(const View& v, const View& u) {
  check_dim(v, 2);
  check_size(v, 0, u.sizes[0]);
  check_size(v, 1, u.sizes[1]);
  STD_TORCH_CHECK(v.dtype == u.dtype, "expected ", v.name, " of the dtype of u");
  STD_TORCH_CHECK(v.sizes[1] == 1 || v.strides[1] == 1, "expected ", v.name,
                  " contiguous in its last dimension");
  return v.strides[0];
}

// Checks every tensor of a step of one layer; nothing has changed when it throws.
inline StepParams step_params(const View& u, const OptionalTensor& pre, const OptionalTensor& post,
                              const View& y, const Ring& ring, const Tensor& taps_,
                              const OptionalTensor& skip, int64_t layer) {
  StepParams a{};
  a.io = scalar_of(u);
  a.state = ring.state;
  a.u = u.data;
  a.u_stride = row_stride(u, u);
  a.y = y.data;
  a.y_stride = row_stride(y, u);
  if (pre) {
    const View v("pre", *pre);
    a.pre = v.data;
    a.pre_stride = row_stride(v, u);
  }
  if (post) {
    const View v("post", *post);
    a.post = v.data;
    a.post_stride = row_stride(v, u);
  }
  const int64_t width = a.state == Scalar::kFloat64 ? 8 : 4;
  a.channels = u.sizes[1];
  a.tiles = ring.tiles;
  a.stored = ring.stored;
  const View& slots = ring.narrow() ? ring.open : ring.view;
  a.slots = slots.sizes[3];
  a.lanes = ring.lanes;
  STD_TORCH_CHECK((a.channels + ring.lanes - 1) / ring.lanes == ring.tiles,
                  "expected u with the channels of ring, got ", shape_text(u), " for ", ring.tiles,
                  " tiles of ", ring.lanes);
  STD_TORCH_CHECK(layer >= 0 && layer < ring.layers, "expected layer in 0 .. ", ring.layers - 1,
                  ", got ", layer);
  a.ring = static_cast<char*>(slots.data) +
           layer * ring.batch * ring.tiles * a.slots * ring.lanes * width;
  const View taps("taps", taps_);
  a.channels_per_filter = check_filters(taps, 4, ring);
  a.block = taps.sizes[2];
  STD_TORCH_CHECK(a.block >= 1, "expected taps with at least one tap");
  STD_TORCH_CHECK(!ring.narrow() || (a.slots >= 1 && a.slots % a.block == 0),
                  "expected open_block with whole blocks of ", a.block, " slots, got ", a.slots);
  a.taps =
      static_cast<char*>(taps.data) + layer * taps.sizes[1] * taps.sizes[2] * taps.sizes[3] * width;
  if (skip) {
    const View v("skip", *skip);
    check_dim(v, 2);
    check_contiguous(v);
    check_size(v, 0, ring.layers);
    check_size(v, 1, ring.tiles * ring.lanes);
    ring.check_dtype(v);
    a.skip = static_cast<char*>(v.data) + layer * ring.tiles * ring.lanes * width;
  }
  return a;
}

}  // namespace

// What a step leaves to take it back by, of all layers.
struct Undo {
  char* pending;      // (layers, B, tiles, slots, W)
  int64_t* token_at;  // (layers, B)
  int64_t layer_bytes, batch, slots;

  void set(StepParams& a, int64_t layer) const {
    a.undo = pending + layer * layer_bytes;
    a.undo_slots = slots;
  }

  void mark(const std::vector<RowAt>& rows, int64_t layer) const {
    for (const RowAt& row : rows) token_at[layer * batch + row.state] = row.position;
  }
};

namespace {

inline Undo undo_view(const Ring& ring, const Tensor& undo_, const Tensor& token_at_) {
  const View undo("undo", undo_), token_at("token_at", token_at_);
  check_dim(undo, 5);
  check_contiguous(undo);
  ring.check_dtype(undo);
  check_size(undo, 0, ring.layers);
  check_size(undo, 1, ring.batch);
  check_size(undo, 2, ring.tiles);
  STD_TORCH_CHECK(undo.sizes[3] >= 1, "expected undo with at least one slot");
  check_size(undo, 4, ring.lanes);
  check_dim(token_at, 2);
  check_contiguous(token_at);
  check_int64(token_at);
  check_size(token_at, 0, ring.layers);
  check_size(token_at, 1, ring.batch);
  const int64_t width = ring.state == Scalar::kFloat64 ? 8 : 4;
  return {static_cast<char*>(undo.data), static_cast<int64_t*>(token_at.data),
          ring.batch * ring.tiles * undo.sizes[3] * ring.lanes * width, ring.batch, undo.sizes[3]};
}

inline void run_step(StepParams& a, int64_t* positions, const std::vector<RowAt>& rows,
                     int64_t n_rows, bool advance) {
  a.rows = rows.data();
  a.n_rows = static_cast<int64_t>(rows.size());
  if (a.n_rows < n_rows) {  // padding rows read zero
    const int64_t bytes = a.io == Scalar::kFloat64 ? 8 : a.io == Scalar::kFloat32 ? 4 : 2;
    size_t next = 0;
    for (int64_t r = 0; r < n_rows; ++r) {
      if (next < rows.size() && rows[next].io == r) {
        ++next;
      } else {
        std::fill_n(static_cast<char*>(a.y) + r * a.y_stride * bytes, a.channels * bytes, 0);
      }
    }
  }
  run_step_jobs(a, thread_count());
  if (advance) {
    for (const RowAt& row : rows) positions[row.state] += 1;
  }
}

}  // namespace

// A stream as its fills need it: the parts of their structs that all levels share, and the levels,
// which fit them.
struct FillState {
  StageParams params;
  Levels levels;
  bool slack;  // whether some level is not plain
  // only where what is due is found by the rows' positions
  int64_t* filled = nullptr;  // (B,), the position up to which a row's fills have run
  char* images = nullptr;     // (layers, B, tiles, image_rows, W)
  int64_t image_rows = 0, lanes = 0;
};

namespace {

inline FillState fill_state(const Ring& ring, const Tensor& kept_, const Tensor& spectra_,
                            const Tensor& levels_, int64_t length) {
  const View kept("kept", kept_), spectra("spectra", spectra_);
  FillState s{{}, Levels(levels_), false};
  FillParams& a = s.params.fill;
  a.state = ring.state, a.stored = ring.stored;
  a.ring = ring.view.data;
  a.open_block = ring.open.data, a.open_slots = ring.open.sizes[3];
  a.kept = kept.data;
  a.spectra = spectra.data;
  a.layers = ring.layers;
  a.batch = ring.batch;
  a.tiles = ring.tiles;
  a.lanes = ring.lanes;
  a.slots = ring.slots;
  a.length = length;
  STD_TORCH_CHECK(length >= 1 && length <= ring.slots, "expected length in 1 .. ", ring.slots,
                  ", got ", length);
  check_dim(kept, 6);
  check_contiguous(kept);
  ring.check_dtype(kept);
  check_size(kept, 0, ring.layers);
  check_size(kept, 1, ring.batch);
  check_size(kept, 2, ring.tiles);
  check_size(kept, 4, 2);
  check_size(kept, 5, ring.lanes);
  a.kept_rows = kept.sizes[3];
  a.channels_per_filter = check_filters(spectra, 5, ring);
  check_size(spectra, 3, 2);
  a.filter_tiles = spectra.sizes[1];
  a.spectra_rows = spectra.sizes[2];
  for (int64_t l = 0; l < s.levels.count; ++l) {
    const LevelRow& level = s.levels.rows[l];
    check_level(level, length, a.kept_rows, a.spectra_rows);
    s.slack |= !level.plain();
    STD_TORCH_CHECK(level.plain() || !ring.narrow(),
                    "expected a plan without slack with a ring in 16 bits");
    STD_TORCH_CHECK(!a.open_slots || level.block % a.open_slots == 0,
                    "expected open_block with the smallest block's slots, got ", a.open_slots);
  }
  return s;
}

// The taps of levels that make their spectra: (layers, filters, channels of each, taps), the third
// of stride 0.
inline void set_taps(FillState& s, const Ring& ring, const Tensor& filters_) {
  const View filters("filters", filters_);
  check_dim(filters, 4);
  check_size(filters, 0, ring.layers);
  Taps& taps = s.params.fill.taps;
  taps.type = scalar_of(filters);
  STD_TORCH_CHECK(taps.type == ring.state || taps.type == Scalar::kBFloat16,
                  "expected filters of the dtype of ring or of dtype bfloat16");
  taps.data = filters.data;
  taps.filters = filters.sizes[1], taps.channels = filters.sizes[2];
  taps.count = std::min(filters.sizes[3], s.params.fill.length);
  taps.layer_stride = filters.strides[0], taps.filter_stride = filters.strides[1];
  const int64_t channels = taps.filters * taps.channels, tiles = ring.tiles, lanes = ring.lanes;
  STD_TORCH_CHECK(channels <= tiles * lanes && channels > (tiles - 1) * lanes,
                  "expected filters for the channels of ring, got ", shape_text(filters), " for ",
                  tiles, " tiles of ", lanes);
  STD_TORCH_CHECK(filters.sizes[3] == 1 || filters.strides[3] == 1,
                  "expected filters contiguous in their last dimension");
}

// Where transforms of levels with slack are under way.
inline void set_work(FillState& s, const Ring& ring, const Tensor& work_) {
  const View work("work", work_);
  check_dim(work, 5);
  check_contiguous(work);
  ring.check_dtype(work);
  check_size(work, 0, ring.batch);
  check_size(work, 3, 2);
  check_size(work, 4, ring.lanes);
  s.params.work = work.data;
  s.params.side_by_side = work.sizes[1];
  s.params.work_rows = work.sizes[2];
  for (int64_t l = 0; l < s.levels.count; ++l) {
    const LevelRow& level = s.levels.rows[l];
    if (level.plain()) continue;
    STD_TORCH_CHECK(level.work_offset >= 0 && work.sizes[1] >= 1 &&
                        level.work_offset + level.transform + kWorkGaps <= work.sizes[2],
                    "expected work with the rows of every level, got ", work.sizes[2]);
  }
}

// Which fills have run, and the before-images of those that can be taken back.
inline void set_filled(FillState& s, const Ring& ring, const Tensor& filled_,
                       const Tensor& images_) {
  const View filled("filled", filled_), images("images", images_);
  check_dim(filled, 1);
  check_size(filled, 0, ring.batch);
  check_contiguous(filled);
  check_int64(filled);
  check_dim(images, 5);
  check_contiguous(images);
  ring.check_dtype(images);
  check_size(images, 0, ring.layers);
  check_size(images, 1, ring.batch);
  check_size(images, 2, ring.tiles);
  check_size(images, 4, ring.lanes);
  s.filled = static_cast<int64_t*>(filled.data);
  s.images = static_cast<char*>(images.data);
  s.image_rows = images.sizes[3], s.lanes = ring.lanes;
  for (int64_t l = 0; l < s.levels.count; ++l) {
    const LevelRow& level = s.levels.rows[l];
    STD_TORCH_CHECK(level.images >= 0 && level.images_offset >= 0 &&
                        level.images_offset + level.images * level.image_rows() <= s.image_rows,
                    "expected images with the rows of every level, got ", s.image_rows);
  }
}

inline void set_level(FillParams& a, const LevelRow& level) {
  a.block = level.block;
  a.radix = level.radix;
  a.n_spectra = level.n_spectra;
  a.kept_offset = level.kept_offset;
  a.spectra_offset = level.spectra_offset;
  a.direct = level.direct != 0;
  a.made = level.made != 0;
  STD_TORCH_CHECK(!a.made || a.taps.data, "expected filters where a level makes its spectra");
}

}  // namespace
}  // namespace futurefill
