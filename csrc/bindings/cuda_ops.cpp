// CUDA implementations of the ops: checks the tensors, fills the launchers' structs, launches on
// torch's current stream. Stable ABI only, and no CUDA header of torch.
#include <torch/csrc/stable/library.h>

#include <string>

#include "bindings/gpu_call.h"
#include "bindings/levels.h"
#include "cuda/launch.h"
#include "cuda/state_params.h"

namespace futurefill {
namespace {

// layers, B, one tile, slots, C, and of a ring in 16 bits its open block.
struct GpuRing {
  int32_t device;
  View view, open;
  cuda::IoType stored;
  int64_t layers, batch, slots, lanes;

  GpuRing(const Tensor& t, const Tensor& open_block)
      : device(device_of(t)),
        view(on_device("ring", t, device)),
        open(on_device("open_block", open_block, device)),
        stored(io_of(view)) {
    check_dim(view, 5);
    check_contiguous(view);
    layers = view.sizes[0], batch = view.sizes[1], slots = view.sizes[3], lanes = view.sizes[4];
    STD_TORCH_CHECK(view.sizes[2] == 1 && lanes % 32 == 0,
                    "expected ring (layers, B, 1, slots, C) with C a multiple of 32, got ",
                    shape_text(view));
    check_dim(open, 5);
    check_contiguous(open);
    check_float32(open);
    for (int64_t d : {0, 1, 2, 4}) check_size(open, d, view.sizes[d]);
    if (stored == cuda::IoType::kFloat32) check_size(open, 3, 0);
  }

  View state(const char* name, const Tensor& t, int64_t dim) const {
    View v = on_device(name, t, device);
    check_dim(v, dim);
    check_contiguous(v);
    check_float32(v);
    return v;
  }

  // (layers, 1, rows, ..., F)
  View filters(const char* name, const Tensor& t, int64_t dim) const {
    View v = state(name, t, dim);
    check_size(v, 0, layers);
    check_size(v, 1, 1);
    STD_TORCH_CHECK(v.sizes[dim - 1] % 32 == 0, "expected ", name,
                    " with a last dimension that is a multiple of 32, got ", shape_text(v));
    return v;
  }

  int64_t* positions(const Tensor& t) const {
    const View v = on_device("positions", t, device);
    check_dim(v, 1);
    check_size(v, 0, batch);
    check_contiguous(v);
    check_int64(v);
    return static_cast<int64_t*>(v.data);
  }

  // The rows, null for all.
  cuda::Rows rows(const OptionalTensor& t) const {
    if (!t) return {nullptr, batch};
    const View v = on_device("rows", *t, device);
    check_dim(v, 1);
    check_contiguous(v);
    check_int64(v);
    return {static_cast<const int64_t*>(v.data), v.sizes[0]};
  }

  // Its part of what the launchers take.
  cuda::State params() const {
    cuda::State s{};
    s.ring = view.data, s.stored = stored;
    s.open_block = static_cast<float*>(open.data), s.open_slots = open.sizes[3];
    s.layers = layers, s.batch = batch, s.slots = slots, s.lanes = lanes;
    return s;
  }
};

// Channels per filter row; all `lanes` channels must have theirs.
int32_t check_sharing(const View& filters, int64_t channels_per_filter, int64_t lanes) {
  STD_TORCH_CHECK(
      channels_per_filter >= 1 && filters.sizes[filters.dim - 1] * channels_per_filter >= lanes,
      "expected ", filters.name, " with a filter for every ", channels_per_filter, " of ", lanes,
      " channels, got ", shape_text(filters));
  return static_cast<int32_t>(channels_per_filter);
}

// Rows and layers are the second and third dimension of a grid.
void check_grid(int64_t rows, int64_t layers) {
  STD_TORCH_CHECK(rows < 65536 && layers < 65536, "expected fewer than 65536 rows and layers, got ",
                  rows, " and ", layers);
}

// The level in a table, with the rows that it needs; direct products are the CPU's.
const LevelRow& gpu_level(const Tensor& table, int64_t index, int64_t length, const View& kept,
                          const View& spectra) {
  const LevelRow& level = Levels(table).at(index);
  check_level(level, length, kept.sizes[3], spectra.sizes[2]);
  STD_TORCH_CHECK(!level.direct, "direct products with the taps are the CPU's");
  return level;
}

void set_spectra(cuda::State& s, const View& kept, const View& spectra,
                 int64_t channels_per_filter) {
  s.kept = static_cast<float*>(kept.data), s.kept_rows = kept.sizes[3];
  s.spectra = static_cast<const float*>(spectra.data), s.spectra_rows = spectra.sizes[2];
  s.filter_lanes = spectra.sizes[4];
  s.channels_per_filter = channels_per_filter;
}

cuda::Level to_level(const LevelRow& r) {
  return {r.block,       r.transform,      r.radix, r.n_spectra,
          r.kept_offset, r.spectra_offset, r.late,  r.extra};
}

int64_t io_stride(const View& v, const View& u) {
  check_dim(v, 2);
  check_size(v, 0, u.sizes[0]);
  check_size(v, 1, u.sizes[1]);
  STD_TORCH_CHECK(v.dtype == u.dtype, "expected ", v.name, " of the dtype of u");
  STD_TORCH_CHECK(v.sizes[1] == 1 || v.strides[1] == 1, "expected ", v.name,
                  " contiguous in its last dimension");
  return v.strides[0];
}

// The short-range taps of all layers.
void set_taps(cuda::State& s, const GpuRing& ring, const Tensor& taps_,
              int64_t channels_per_filter) {
  const View taps = ring.filters("taps", taps_, 4);
  STD_TORCH_CHECK(taps.sizes[2] >= 1, "expected taps with at least one tap");
  const int64_t opened = ring.open.sizes[3];
  STD_TORCH_CHECK(!s.narrow() || (opened >= 1 && opened % taps.sizes[2] == 0),
                  "expected open_block with whole blocks of ", taps.sizes[2],
                  " slots beside a ring in 16 bits, got shape ", shape_text(ring.open));
  s.taps = static_cast<const float*>(taps.data);
  s.n_taps = taps.sizes[2], s.filter_lanes = taps.sizes[3];
  s.channels_per_filter = check_sharing(taps, channels_per_filter, ring.lanes);
}

// What a token's first launch leaves for its others.
void set_token(cuda::State& s, const GpuRing& ring, const Tensor& token_at_,
               const Tensor& history_) {
  const View token_at = on_device("token_at", token_at_, ring.device);
  check_dim(token_at, 2);
  check_contiguous(token_at);
  check_int64(token_at);
  const View history = ring.state("history", history_, 3);
  for (const View* v : {&token_at, &history}) {
    check_size(*v, 0, ring.layers);
    check_size(*v, 1, ring.batch);
  }
  check_size(history, 2, ring.lanes);
  s.token_at = static_cast<int64_t*>(token_at.data);
  s.history = static_cast<float*>(history.data);
}

void history(Tensor ring_, Tensor open_block, Tensor taps, Tensor positions, OptionalTensor rows,
             Tensor token_at, Tensor undo_, Tensor history_, int64_t channels_per_filter) {
  const GpuRing ring(ring_, open_block);
  cuda::State state = ring.params();
  set_taps(state, ring, taps, channels_per_filter);
  set_token(state, ring, token_at, history_);
  const View undo = ring.state("undo", undo_, 5);
  check_size(undo, 0, ring.layers);
  check_size(undo, 1, ring.batch);
  check_size(undo, 2, 1);
  STD_TORCH_CHECK(undo.sizes[3] >= 1, "expected undo with at least one slot");
  check_size(undo, 4, ring.lanes);
  state.undo = static_cast<float*>(undo.data), state.undo_slots = undo.sizes[3];
  state.positions = ring.positions(positions);
  const cuda::Rows some = ring.rows(rows);
  if (some.n == 0 || ring.layers == 0) return;
  check_grid(some.n, ring.layers);
  const cuda::HistoryParams p = cuda::history_params(state, some);
  const DeviceGuard guard(ring.device, "history", ring.view);
  check_cuda(cuda::launch_history(p, current_stream(ring.device)), "history", ring.view,
             ring.device);
}

void apply_step(Tensor u_, OptionalTensor pre_, OptionalTensor post_, Tensor y_, Tensor ring_,
                Tensor open_block, Tensor taps, OptionalTensor skip_, Tensor history_,
                Tensor token_at, Tensor positions, OptionalTensor rows, int64_t layer, bool advance,
                int64_t channels_per_filter) {
  const GpuRing ring(ring_, open_block);
  const View u = on_device("u", u_, ring.device), y = on_device("y", y_, ring.device);
  check_dim(u, 2);
  cuda::Tokens tokens{};
  tokens.io = io_of(u);
  tokens.channels = u.sizes[1];
  tokens.u = u.data, tokens.u_row = io_stride(u, u);
  tokens.y = y.data, tokens.y_row = io_stride(y, u);
  if (pre_) {
    const View pre = on_device("pre", *pre_, ring.device);
    tokens.pre = pre.data, tokens.pre_row = io_stride(pre, u);
  }
  if (post_) {
    const View post = on_device("post", *post_, ring.device);
    tokens.post = post.data, tokens.post_row = io_stride(post, u);
  }
  STD_TORCH_CHECK(layer >= 0 && layer < ring.layers, "expected layer in 0 .. ", ring.layers - 1,
                  ", got ", layer);
  STD_TORCH_CHECK(
      tokens.channels >= 1 && tokens.channels <= ring.lanes && tokens.channels > ring.lanes - 32,
      "expected u with the channels of ring ", shape_text(ring.view), ", got ", shape_text(u));
  cuda::State state = ring.params();
  set_taps(state, ring, taps, channels_per_filter);
  set_token(state, ring, token_at, history_);
  if (skip_) {
    const View skip = ring.state("skip", *skip_, 2);
    check_size(skip, 0, ring.layers);
    check_size(skip, 1, ring.lanes);
    state.skip = static_cast<const float*>(skip.data);
  }
  state.positions = ring.positions(positions);
  const cuda::Rows some = ring.rows(rows);
  check_size(u, 0, some.n);
  if (some.n == 0) return;
  check_grid(some.n, 1);
  const cuda::ApplyParams p = cuda::apply_params(state, tokens, some, layer, advance);
  const DeviceGuard guard(ring.device, "apply_step", u);
  check_cuda(cuda::launch_apply_step(p, current_stream(ring.device)), "apply_step", u, ring.device);
}

// What a fill of channels first_channel .. last_channel - 1 needs, checked.
struct FillCall {
  GpuRing ring;
  cuda::State state;
  cuda::Level level;
  cuda::Rows rows;

  FillCall(const Tensor& ring_, const Tensor& open_block, const Tensor& kept_,
           const Tensor& spectra_, const Tensor& positions, const OptionalTensor& rows_,
           const Tensor& levels, int64_t length, int64_t index, int64_t first_channel,
           int64_t last_channel, int64_t channels_per_filter)
      : ring(ring_, open_block), state(ring.params()) {
    const View kept = ring.state("kept", kept_, 6);
    const View spectra = ring.filters("spectra", spectra_, 5);
    check_size(kept, 0, ring.layers);
    check_size(kept, 1, ring.batch);
    check_size(kept, 4, 2);
    check_size(kept, 5, ring.lanes);
    check_size(spectra, 3, 2);
    STD_TORCH_CHECK(length >= 1 && length <= ring.slots, "expected length in 1 .. ", ring.slots,
                    ", got ", length);
    level = to_level(gpu_level(levels, index, length, kept, spectra));
    STD_TORCH_CHECK(!state.narrow() || level.late == 0,
                    "expected a level without slack of a ring in 16 bits, got late ", level.late);
    STD_TORCH_CHECK(first_channel >= 0 && first_channel <= last_channel &&
                        last_channel <= ring.lanes && first_channel % 32 == 0 &&
                        last_channel % 32 == 0,
                    "expected channels of ring ", shape_text(ring.view),
                    " from multiple to multiple of 32, got ", first_channel, " .. ", last_channel);
    set_spectra(state, kept, spectra, check_sharing(spectra, channels_per_filter, ring.lanes));
    state.positions = ring.positions(positions);
    state.length = length;
    rows = ring.rows(rows_);
  }
};

void future_fill(Tensor ring, Tensor open_block, Tensor kept, Tensor spectra, Tensor positions,
                 OptionalTensor rows, Tensor levels, int64_t length, int64_t index,
                 int64_t first_channel, int64_t last_channel, int64_t channels_per_filter) {
  const FillCall call(ring, open_block, kept, spectra, positions, rows, levels, length, index,
                      first_channel, last_channel, channels_per_filter);
  STD_TORCH_CHECK(call.level.transform <= cuda::kMaxFill, "expected a block of at most ",
                  cuda::kMaxFill, ", got ", call.level.block);
  if (call.rows.n == 0 || call.ring.layers == 0 || first_channel == last_channel) return;
  check_grid(call.rows.n, call.ring.layers);
  const cuda::FillParams p =
      cuda::fill_params(call.state, call.level, call.rows, first_channel, last_channel);
  const int32_t device = call.ring.device;
  const DeviceGuard guard(device, "future_fill", call.ring.view);
  check_cuda(cuda::launch_future_fill(p, current_stream(device)), "future_fill", call.ring.view,
             device);
}

void early_fill(Tensor ring, Tensor open_block, Tensor kept, Tensor spectra, Tensor positions,
                OptionalTensor rows, Tensor levels, int64_t length, int64_t index,
                int64_t first_channel, int64_t last_channel, int64_t channels_per_filter) {
  const FillCall call(ring, open_block, kept, spectra, positions, rows, levels, length, index,
                      first_channel, last_channel, channels_per_filter);
  check_float32(call.ring.view);
  const cuda::FillParams p =
      cuda::fill_params(call.state, call.level, call.rows, first_channel, last_channel);
  STD_TORCH_CHECK(cuda::early_supported(p.shape), "expected a block that is a power of two from ",
                  cuda::kMinEarly, " to ", cuda::kMaxEarly, ", got ", call.level.block);
  if (call.rows.n == 0 || call.ring.layers == 0 || first_channel == last_channel) return;
  check_grid(call.rows.n, call.ring.layers);
  const int32_t device = call.ring.device;
  const DeviceGuard guard(device, "early_fill", call.ring.view);
  check_cuda(cuda::launch_early_fill(p, current_stream(device)), "early_fill", call.ring.view,
             device);
}

void long_fill(Tensor scratch_, Tensor ring, Tensor open_block, Tensor kept, Tensor spectra,
               Tensor positions, OptionalTensor rows, Tensor twist_, Tensor levels, int64_t length,
               int64_t index, int64_t first_layer, int64_t first_channel,
               int64_t channels_per_filter) {
  const int32_t device = device_of(ring);
  const View scratch = on_device("scratch", scratch_, device);
  const View twist = on_device("twist", twist_, device);
  check_dim(scratch, 5), check_dim(twist, 2);
  for (const View* v : {&scratch, &twist}) {
    check_contiguous(*v);
    check_float32(*v);
  }
  const int64_t layers = scratch.sizes[0], channels = scratch.sizes[3];
  const FillCall call(ring, open_block, kept, spectra, positions, rows, levels, length, index,
                      first_channel, first_channel + channels, channels_per_filter);
  const int64_t transform = call.level.transform;
  STD_TORCH_CHECK(transform >= cuda::kMinLong && transform <= cuda::kMaxLong,
                  "expected a block of more than ", cuda::kMaxFill, " and at most ", cuda::kMaxLong,
                  ", got ", call.level.block);
  STD_TORCH_CHECK(first_layer >= 0 && first_layer + layers <= call.ring.layers,
                  "expected layers in 0 .. ", call.ring.layers, ", got ", first_layer, " .. ",
                  first_layer + layers);
  check_size(scratch, 1, call.rows.n), check_size(scratch, 2, transform), check_size(scratch, 4, 2);
  check_size(twist, 0, transform), check_size(twist, 1, 2);
  if (call.rows.n == 0 || layers == 0 || channels == 0) return;
  check_grid(call.rows.n, layers * cuda::nodes_of(int(transform)));
  const cuda::LongFillParams p =
      cuda::long_fill_params(call.state, call.level, call.rows, first_layer, layers, first_channel,
                             first_channel + channels, scratch.data, twist.data);
  const DeviceGuard guard(device, "long_fill", call.ring.view);
  check_cuda(cuda::launch_long_fill(p, current_stream(device)), "long_fill", call.ring.view,
             device);
}

std::string cuda_architectures() { return kArchitectures; }

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CUDA, m) {
  m.impl("history", TORCH_BOX(&history));
  m.impl("apply_step", TORCH_BOX(&apply_step));
  m.impl("future_fill", TORCH_BOX(&future_fill));
  m.impl("early_fill", TORCH_BOX(&early_fill));
  m.impl("long_fill", TORCH_BOX(&long_fill));
}

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CompositeExplicitAutograd, m) {
  m.impl("cuda_architectures", TORCH_BOX(&cuda_architectures));
}

}  // namespace
}  // namespace futurefill
