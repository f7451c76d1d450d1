// The CPU ops of a token, and what plans and layouts ask of the engine.
#include <torch/csrc/stable/library.h>

#include <string>

#include "bindings/due_fills.h"
#include "bindings/token_run.h"

namespace futurefill {
namespace {

void step(Tensor u_, OptionalTensor pre, OptionalTensor post, Tensor y, Tensor ring_,
          Tensor open_block, Tensor taps, OptionalTensor skip, Tensor positions_,
          OptionalTensor rows, int64_t layer, bool advance, Tensor kept, Tensor work,
          Tensor spectra, Tensor filters, Tensor levels, int64_t length, Tensor undo_,
          Tensor token_at, Tensor filled, Tensor images) {
  const Ring ring(ring_, open_block);
  const View u("u", u_), positions("positions", positions_);
  check_dim(u, 2);
  const Undo undo = undo_view(ring, undo_, token_at);
  FillState fills = fill_state(ring, kept, spectra, levels, length);
  set_work(fills, ring, work);
  set_taps(fills, ring, filters);
  set_filled(fills, ring, filled, images);
  auto& at = collect_rows(rows, positions, ring.batch, u.sizes[0], length);
  StepParams a = step_params(u, pre, post, View("y", y), ring, taps, skip, layer);
  if (layer == 0) run_unfilled(fills, at);
  undo.set(a, layer);
  undo.mark(at, layer);
  run_step(a, static_cast<int64_t*>(positions.data), at, u.sizes[0], advance);
}

void generate(Tensor u_, Tensor y_, Tensor ring_, Tensor open_block, Tensor taps,
              OptionalTensor skip, Tensor positions_, Tensor kept, Tensor work, Tensor spectra,
              Tensor filters, Tensor levels, int64_t length, Tensor filled, Tensor images) {
  const Ring ring(ring_, open_block);
  const View u("u", u_), positions("positions", positions_);
  View y("y", y_);
  check_dim(u, 2);
  check_dim(y, 3);
  check_contiguous(y);
  STD_TORCH_CHECK(ring.layers == 1, "expected ring of one layer, got ", ring.layers);
  const int64_t n = y.sizes[0];
  y.dim = 2, ++y.sizes, ++y.strides;
  FillState fills = fill_state(ring, kept, spectra, levels, length);
  set_work(fills, ring, work);
  set_taps(fills, ring, filters);
  set_filled(fills, ring, filled, images);
  const StepParams a = step_params(u, {}, {}, y, ring, taps, skip, 0);
  collect_rows({}, positions, ring.batch, u.sizes[0], length - n + 1);
  if (!n) return;
  const Block first{u.data, {u.strides[0], u.strides[1], 0}};
  const Block tokens = block_of_tokens(y.data, ring.batch, a.channels);
  run_tokens(a, fills, static_cast<int64_t*>(positions.data),
             {first, nullptr, nullptr, tokens, n, Feedback::kSame});
}

int64_t cpu_lanes(bool float64) { return float64 ? engine().lanes64 : engine().lanes32; }

int64_t tile_lanes(bool float64, int64_t channels) {
  const Scalar state = float64 ? Scalar::kFloat64 : Scalar::kFloat32;
  const int64_t narrow = engine().narrow.lanes(state);
  return channels <= narrow ? narrow : engine().wide.lanes(state);
}

std::string cpu_isa() {
  thread_count();  // says now if its variable is wrong, not at the first large fill
  return engine().name;
}

int64_t tiles_of(int64_t channels) {
  const int64_t lanes = engine().lanes32;
  return (channels + lanes - 1) / lanes;
}

int64_t step_threads_of(int64_t rows, int64_t channels, int64_t block, int64_t available) {
  return step_threads(rows, tiles_of(channels), engine().lanes32, block, available);
}

int64_t fill_threads_of(int64_t layers, int64_t rows, int64_t channels, int64_t block,
                        int64_t available) {
  return fill_threads(rows, layers, tiles_of(channels), engine().lanes32, block, available);
}

int64_t work_gaps() { return kWorkGaps; }

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CPU, m) {
  m.impl("step", TORCH_BOX(&step));
  m.impl("generate", TORCH_BOX(&generate));
}

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CompositeExplicitAutograd, m) {
  m.impl("cpu_lanes", TORCH_BOX(&cpu_lanes));
  m.impl("tile_lanes", TORCH_BOX(&tile_lanes));
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("step_threads", TORCH_BOX(&step_threads_of));
  m.impl("fill_threads", TORCH_BOX(&fill_threads_of));
  m.impl("work_gaps", TORCH_BOX(&work_gaps));
}

}  // namespace
}  // namespace futurefill
