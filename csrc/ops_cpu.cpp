// CPU implementations of the ops: checks the tensors, fills the engine's structs, runs the engine.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <exception>
#include <string>
#include <vector>

#include "bound_step.h"
#include "cpu/engine.h"
#include "parallel.h"
#include "tensor_checks.h"

namespace futurefill {
namespace {

// Rows of a call at their positions, padding rows left out. rows: null for all.
void collect_rows(const int64_t* rows, const int64_t* positions, int64_t batch, int64_t n_rows,
                  int64_t limit, std::vector<RowAt>& result) {
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
std::vector<RowAt>& collect_rows(const OptionalTensor& rows, const View& positions, int64_t batch,
                                 int64_t n_rows, int64_t limit) {
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

int64_t row_stride(const View& v, const View& u) {
  check_dim(v, 2);
  check_size(v, 0, u.sizes[0]);
  check_size(v, 1, u.sizes[1]);
  STD_TORCH_CHECK(v.dtype == u.dtype, "expected ", v.name, " of the dtype of u");
  STD_TORCH_CHECK(v.sizes[1] == 1 || v.strides[1] == 1, "expected ", v.name,
                  " contiguous in its last dimension");
  return v.strides[0];
}

// Checks every tensor of a step of one layer; nothing has changed when it throws.
StepParams step_params(const View& u, const OptionalTensor& pre, const OptionalTensor& post,
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
  a.slots = ring.slots;
  STD_TORCH_CHECK((a.channels + ring.lanes - 1) / ring.lanes == ring.tiles,
                  "expected u with the channels of ring, got ", shape_text(u), " for ", ring.tiles,
                  " tiles of ", ring.lanes);
  STD_TORCH_CHECK(layer >= 0 && layer < ring.layers, "expected layer in 0 .. ", ring.layers - 1,
                  ", got ", layer);
  a.ring = static_cast<char*>(ring.view.data) +
           layer * ring.batch * ring.tiles * ring.slots * ring.lanes * width;
  const View taps("taps", taps_);
  a.repeat = check_filters(taps, 4, ring);
  a.block = taps.sizes[2];
  STD_TORCH_CHECK(a.block >= 1, "expected taps with at least one tap");
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

void run_step(StepParams& a, int64_t* positions, const std::vector<RowAt>& rows, int64_t n_rows,
              bool advance) {
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
  run_step_jobs(a);
  if (advance) {
    for (const RowAt& row : rows) positions[row.state] += 1;
  }
}

// The parts of FillParams that all levels share.
FillParams fill_params(const Ring& ring, const Tensor& kept_, const Tensor& spectra_,
                       int64_t length) {
  const View kept("kept", kept_), spectra("spectra", spectra_);
  FillParams a{};
  a.state = ring.state;
  a.ring = ring.view.data;
  a.kept = kept.data;
  a.spectra = spectra.data;
  a.layers = ring.layers;
  a.batch = ring.batch;
  a.tiles = ring.tiles;
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
  a.repeat = check_filters(spectra, 5, ring);
  check_size(spectra, 3, 2);
  a.filter_tiles = spectra.sizes[1];
  a.spectra_rows = spectra.sizes[2];
  return a;
}

void set_level(FillParams& a, int64_t block, int64_t radix, int64_t n_spectra, int64_t kept_offset,
               int64_t spectra_offset, bool direct) {
  STD_TORCH_CHECK(block >= 1 && radix >= 2 && n_spectra >= 1 && n_spectra < radix,
                  "expected a level with block >= 1 and 1 <= n_spectra < radix, got block ", block,
                  ", radix ", radix, ", n_spectra ", n_spectra);
  int64_t n = 1;
  while (n < block) n *= 2;
  const int64_t spectra_rows = direct ? ((n_spectra + 1) * block + 1) / 2 : n_spectra * n;
  const int64_t kept_rows = direct ? 0 : (n_spectra - 1) * n;
  STD_TORCH_CHECK(spectra_offset >= 0 && spectra_offset + spectra_rows <= a.spectra_rows,
                  "expected spectra with at least ", spectra_offset + spectra_rows, " rows, got ",
                  a.spectra_rows);
  STD_TORCH_CHECK(kept_offset >= 0 && kept_offset + kept_rows <= a.kept_rows,
                  "expected kept with at least ", kept_offset + kept_rows, " rows, got ",
                  a.kept_rows);
  a.block = block;
  a.radix = radix;
  a.n_spectra = n_spectra;
  a.kept_offset = kept_offset;
  a.spectra_offset = spectra_offset;
  a.direct = direct;
}

void check_levels(const View& levels) {
  check_dim(levels, 2);
  check_size(levels, 1, 6);
  check_contiguous(levels);
  check_int64(levels);
}

// The fills due at the positions of rows that have just advanced. Reorders and shortens `rows`.
void run_due_fills(FillParams& a, const View& levels, std::vector<RowAt>& rows) {
  const int64_t* level = static_cast<const int64_t*>(levels.data);
  const auto not_due = [&](const RowAt& row) {
    return row.position % level[0] != 0 || row.position >= a.length;
  };
  if (levels.sizes[0] == 0) return;
  rows.erase(std::remove_if(rows.begin(), rows.end(), not_due), rows.end());
  // a row fires at the largest block that divides its position: largest level first
  auto begin = rows.begin();
  for (int64_t l = levels.sizes[0] - 1; l >= 0 && begin != rows.end(); --l) {
    const int64_t* d = level + 6 * l;
    const auto end = std::partition(begin, rows.end(),
                                    [&](const RowAt& row) { return row.position % d[0] == 0; });
    if (end == begin) continue;
    if (d[2] == 0) {  // no spectra here: sliced_fill does this level
      begin = end;
      continue;
    }
    set_level(a, d[0], d[1], d[2], d[3], d[4], d[5] != 0);
    a.rows = &*begin;
    a.n_rows = end - begin;
    run_fill_jobs(a);
    begin = end;
  }
}

void short_range_step(Tensor u_, OptionalTensor pre, OptionalTensor post, Tensor y, Tensor ring_,
                      Tensor taps, OptionalTensor skip, Tensor positions_, OptionalTensor rows,
                      int64_t layer, bool advance, int64_t) {
  const Ring ring(ring_);
  const View u("u", u_), positions("positions", positions_);
  check_dim(u, 2);
  const auto& at = collect_rows(rows, positions, ring.batch, u.sizes[0], ring.slots);
  StepParams a = step_params(u, pre, post, View("y", y), ring, taps, skip, layer);
  run_step(a, static_cast<int64_t*>(positions.data), at, u.sizes[0], advance);
}

void future_fill(Tensor ring_, Tensor kept, Tensor spectra, Tensor positions, OptionalTensor rows,
                 int64_t length, int64_t block, int64_t radix, int64_t n_spectra,
                 int64_t kept_offset, int64_t spectra_offset, bool direct, int64_t) {
  const Ring ring(ring_);
  FillParams a = fill_params(ring, kept, spectra, length);
  set_level(a, block, radix, n_spectra, kept_offset, spectra_offset, direct);
  const auto& at = collect_rows(rows, View("positions", positions), ring.batch, -1, length);
  for (const RowAt& row : at) {
    STD_TORCH_CHECK(row.position % block == 0 && row.position / block % radix != 0,
                    "expected rows at a position where the level of block ", block,
                    " fires, got position ", row.position);
  }
  a.rows = at.data();
  a.n_rows = static_cast<int64_t>(at.size());
  run_fill_jobs(a);
}

void step(Tensor u_, OptionalTensor pre, OptionalTensor post, Tensor y, Tensor ring_, Tensor taps,
          OptionalTensor skip, Tensor positions_, OptionalTensor rows, int64_t layer, bool advance,
          Tensor kept, Tensor spectra, Tensor levels_, int64_t length) {
  const Ring ring(ring_);
  const View u("u", u_), positions("positions", positions_), levels("levels", levels_);
  check_dim(u, 2);
  check_levels(levels);
  FillParams fill = fill_params(ring, kept, spectra, length);
  auto& at = collect_rows(rows, positions, ring.batch, u.sizes[0], length);
  StepParams a = step_params(u, pre, post, View("y", y), ring, taps, skip, layer);
  run_step(a, static_cast<int64_t*>(positions.data), at, u.sizes[0], advance);
  if (!advance) return;
  for (RowAt& row : at) row.position += 1;
  run_due_fills(fill, levels, at);
}

void generate(Tensor u_, Tensor y_, Tensor ring_, Tensor taps, OptionalTensor skip,
              Tensor positions_, Tensor kept, Tensor spectra, Tensor levels_, int64_t length) {
  const Ring ring(ring_);
  const View u("u", u_), positions("positions", positions_), levels("levels", levels_);
  View y("y", y_);
  check_dim(u, 2);
  check_dim(y, 3);
  check_contiguous(y);
  check_levels(levels);
  STD_TORCH_CHECK(ring.layers == 1, "expected ring of one layer, got ", ring.layers);
  const int64_t n = y.sizes[0];
  y.dim = 2, ++y.sizes, ++y.strides;
  FillParams fill = fill_params(ring, kept, spectra, length);
  auto& at = collect_rows({}, positions, ring.batch, u.sizes[0], length - n + 1);
  StepParams a = step_params(u, {}, {}, y, ring, taps, skip, 0);
  const int64_t bytes = a.io == Scalar::kFloat64 ? 8 : a.io == Scalar::kFloat32 ? 4 : 2;
  for (int64_t t = 0; t < n; ++t) {
    at.clear();
    for (int64_t r = 0; r < ring.batch; ++r) {
      at.push_back({r, r, static_cast<int64_t*>(positions.data)[r]});
    }
    run_step(a, static_cast<int64_t*>(positions.data), at, ring.batch, true);
    for (RowAt& row : at) row.position += 1;
    run_due_fills(fill, levels, at);
    a.u = a.y;
    a.u_stride = a.y_stride;
    a.y = static_cast<char*>(a.y) + ring.batch * a.channels * bytes;
  }
}

}  // namespace

// What a step of a checked stream needs; see bound_step.h.
struct BoundStream {
  StepParams step;  // of layer 0
  FillParams fill;
  int64_t ring_bytes, taps_bytes, skip_bytes;  // from one layer to the next
  int64_t layers, batch, length;
  int64_t* positions;
  int64_t dim = 2, sizes[2], strides[2];  // of levels
  View levels;
};

namespace {

int64_t bind(Tensor ring_, Tensor taps_, OptionalTensor skip, Tensor positions_, Tensor kept,
             Tensor spectra, Tensor levels_, int64_t length, int64_t channels, Tensor like_) {
  const Ring ring(ring_);
  const View taps("taps", taps_), positions("positions", positions_), levels("levels", levels_);
  View like("like", like_);
  check_levels(levels);
  check_dim(positions, 1);
  check_size(positions, 0, ring.batch);
  check_contiguous(positions);
  check_int64(positions);
  int64_t sizes[2] = {ring.batch, channels}, strides[2] = {channels, 1};
  like.dim = 2, like.sizes = sizes, like.strides = strides;
  StepParams step = step_params(like, {}, {}, like, ring, taps_, skip, 0);
  const int64_t width = step.state == Scalar::kFloat64 ? 8 : 4;
  auto* stream = new BoundStream{step,
                                 fill_params(ring, kept, spectra, length),
                                 ring.batch * ring.tiles * ring.slots * ring.lanes * width,
                                 taps.sizes[1] * taps.sizes[2] * taps.sizes[3] * width,
                                 skip ? ring.tiles * ring.lanes * width : 0,
                                 ring.layers,
                                 ring.batch,
                                 length,
                                 static_cast<int64_t*>(positions.data),
                                 2,
                                 {levels.sizes[0], levels.sizes[1]},
                                 {levels.strides[0], levels.strides[1]},
                                 levels};
  stream->levels.sizes = stream->sizes;
  stream->levels.strides = stream->strides;
  return reinterpret_cast<int64_t>(stream);
}

void unbind(int64_t stream) { delete reinterpret_cast<BoundStream*>(stream); }

int64_t cpu_lanes(bool float64) { return float64 ? engine().lanes64 : engine().lanes32; }

std::string cpu_isa() {
  thread_count();  // says now if its variable is wrong, not at the first large fill
  return engine().name;
}

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CPU, m) {
  m.impl("short_range_step", TORCH_BOX(&short_range_step));
  m.impl("future_fill", TORCH_BOX(&future_fill));
  m.impl("step", TORCH_BOX(&step));
  m.impl("generate", TORCH_BOX(&generate));
  m.impl("bind", TORCH_BOX(&bind));
}

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CompositeExplicitAutograd, m) {
  m.impl("cpu_lanes", TORCH_BOX(&cpu_lanes));
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("unbind", TORCH_BOX(&unbind));
}

}  // namespace
}  // namespace futurefill

const char* futurefill_step(futurefill::BoundStream* stream, const void* u, const void* pre,
                            const void* post, void* y, const int64_t* rows, int64_t n_rows,
                            int64_t layer) noexcept {
  using namespace futurefill;
  thread_local std::string error;
  try {
    thread_local std::vector<RowAt> at;
    const BoundStream& s = *stream;
    STD_TORCH_CHECK(layer >= 0 && layer < s.layers, "expected layer in 0 .. ", s.layers - 1,
                    ", got ", layer);
    collect_rows(rows, s.positions, s.batch, n_rows, s.length, at);
    StepParams a = s.step;
    a.u = u, a.pre = pre, a.post = post, a.y = y;
    a.pre_stride = a.post_stride = a.channels;
    a.ring = static_cast<char*>(a.ring) + layer * s.ring_bytes;
    a.taps = static_cast<const char*>(a.taps) + layer * s.taps_bytes;
    if (a.skip) a.skip = static_cast<const char*>(a.skip) + layer * s.skip_bytes;
    const bool advance = layer == s.layers - 1;
    run_step(a, s.positions, at, n_rows, advance);
    if (advance) {
      for (RowAt& row : at) row.position += 1;
      FillParams fill = s.fill;
      run_due_fills(fill, s.levels, at);
    }
    return nullptr;
  } catch (const std::exception& e) {
    error = e.what();
    return error.c_str();
  }
}
