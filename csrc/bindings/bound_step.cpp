#include "bindings/bound_step.h"

#include <torch/csrc/stable/library.h>

#include <exception>
#include <string>

#include "bindings/bound_stream.h"
#include "bindings/due_fills.h"

namespace futurefill {

namespace {

int64_t bind(Tensor ring_, Tensor open_block, Tensor taps_, OptionalTensor skip, Tensor positions_,
             Tensor kept, Tensor work, Tensor spectra, Tensor filters, Tensor levels,
             int64_t length, Tensor undo, Tensor token_at, Tensor filled, Tensor images,
             int64_t channels, Tensor like_) {
  const Ring ring(ring_, open_block);
  const View taps("taps", taps_), positions("positions", positions_);
  View like("like", like_);
  check_dim(positions, 1);
  check_size(positions, 0, ring.batch);
  check_contiguous(positions);
  check_int64(positions);
  int64_t sizes[2] = {ring.batch, channels}, strides[2] = {channels, 1};
  like.dim = 2, like.sizes = sizes, like.strides = strides;
  StepParams step = step_params(like, {}, {}, like, ring, taps_, skip, 0);
  FillState fills = fill_state(ring, kept, spectra, levels, length);
  set_work(fills, ring, work);
  set_taps(fills, ring, filters);
  set_filled(fills, ring, filled, images);
  const int64_t width = step.state == Scalar::kFloat64 ? 8 : 4;
  auto* stream = new BoundStream{step,
                                 fills,
                                 undo_view(ring, undo, token_at),
                                 ring.batch * ring.tiles * step.slots * ring.lanes * width,
                                 taps.sizes[1] * taps.sizes[2] * taps.sizes[3] * width,
                                 skip ? ring.tiles * ring.lanes * width : 0,
                                 ring.layers,
                                 ring.batch,
                                 length,
                                 static_cast<int64_t*>(positions.data),
                                 {}};
  return reinterpret_cast<int64_t>(stream);
}

void unbind(int64_t stream) { delete reinterpret_cast<BoundStream*>(stream); }

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CPU, m) { m.impl("bind", TORCH_BOX(&bind)); }

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CompositeExplicitAutograd, m) {
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
    if (layer == 0) run_unfilled(s.fills, at);
    s.undo.set(a, layer);
    s.undo.mark(at, layer);
    run_step(a, s.positions, at, n_rows, layer == s.layers - 1);
    return nullptr;
  } catch (const std::exception& e) {
    error = e.what();
    return error.c_str();
  }
}

const char* futurefill_plain_step(futurefill::BoundStream* stream, const void* u, void* y,
                                  int64_t layer) noexcept {
  return futurefill_step(stream, u, nullptr, nullptr, y, nullptr, stream->batch, layer);
}

namespace futurefill {
namespace {

// Values that a short step reads or writes: some ten microseconds.
constexpr int64_t kShort = 1 << 17;

// Those of the fill of a plain level due at a position, of all layers of one row.
int64_t fill_values(const FillState& s, int64_t position) {
  const FillParams& a = s.params.fill;
  int64_t block = 0;
  for (int64_t l = 0; l < s.levels.count && position % s.levels.rows[l].block == 0; ++l) {
    block = s.levels.rows[l].block;
  }
  return position ? block * a.layers * a.tiles * s.lanes * 8 : 0;
}

}  // namespace
}  // namespace futurefill

bool futurefill_step_is_short(const futurefill::BoundStream* stream, int64_t layer) noexcept {
  using namespace futurefill;
  const BoundStream& s = *stream;
  int64_t values = s.batch * s.step.channels * (2 + s.step.block / 2);
  if (layer == 0) {
    if (s.fills.slack) return false;
    for (int64_t r = 0; r < s.batch && values <= kShort; ++r) {
      values += fill_values(s.fills, s.positions[r]);
    }
  }
  return values <= kShort;
}
