// The ops around a prompt's transforms on a GPU: checks, structs, launches.
#include <torch/csrc/stable/library.h>

#include "bindings/gpu_call.h"
#include "cuda/launch.h"
#include "cuda/state_params.h"

namespace futurefill {
namespace {

constexpr int64_t kMostBlocks = 65535;  // of a grid's second and third dimension

// (rows, channels, time) with a stride of 1 in time.
View signal(const char* name, const Tensor& t, int32_t device, cuda::Strides& at) {
  const View v = on_device(name, t, device);
  check_dim(v, 3);
  STD_TORCH_CHECK(v.sizes[2] <= 1 || v.strides[2] == 1, "expected ", name,
                  " with a stride of 1 in time");
  at = {v.strides[0], v.strides[1]};
  return v;
}

// Rows and channels of u, and at least its positions and `more`.
void check_like(const View& v, const View& u, int64_t more) {
  check_size(v, 0, u.sizes[0]);
  check_size(v, 1, u.sizes[1]);
  STD_TORCH_CHECK(v.sizes[2] >= u.sizes[2] + more, "expected ", v.name, " with at least ",
                  u.sizes[2] + more, " positions, got shape ", shape_text(v));
}

// Of the shape and dtype of u.
void check_same(const View& v, const View& u) {
  check_like(v, u, 0);
  check_size(v, 2, u.sizes[2]);
  STD_TORCH_CHECK(v.dtype == u.dtype, "expected ", v.name, " of the dtype of u");
}

const int64_t* per_row(const char* name, const Tensor& t, const View& u, int32_t device) {
  const View v = on_device(name, t, device);
  check_dim(v, 1);
  check_size(v, 0, u.sizes[0]);
  check_contiguous(v);
  check_int64(v);
  return static_cast<const int64_t*>(v.data);
}

// The tokens of the call, of 16 or 32 bits.
View tokens(const Tensor& t, int32_t device, cuda::Strides& at) {
  const View u = signal("u", t, device, at);
  STD_TORCH_CHECK(u.sizes[0] <= kMostBlocks && u.sizes[1] <= kMostBlocks,
                  "expected u with at most 65535 rows and channels, got ", shape_text(u));
  return u;
}

// A gate of the tokens, or null.
const void* gate(const char* name, const OptionalTensor& t, const View& u, int32_t device,
                 cuda::Strides& at) {
  if (!t) return nullptr;
  const View v = signal(name, *t, device, at);
  check_same(v, u);
  return v.data;
}

void prefill_inputs(Tensor u_, OptionalTensor pre_, OptionalTensor lengths, Tensor x_,
                    OptionalTensor held_) {
  const int32_t device = device_of(u_);
  cuda::InputsParams p{};
  cuda::InputsShape& a = p.shape;
  const View u = tokens(u_, device, p.u_at);
  p.io = io_of(u);
  p.u = u.data;
  p.pre = gate("pre", pre_, u, device, p.pre_at);
  const View x = signal("x", x_, device, p.x_at);
  check_like(x, u, 0), check_float32(x);
  p.x = static_cast<float*>(x.data);
  if (held_) {
    const View held = signal("held", *held_, device, p.held_at);
    check_like(held, u, 0), check_size(held, 2, u.sizes[2]), check_float32(held);
    p.held = static_cast<float*>(held.data);
  }
  if (lengths) p.lengths = per_row("lengths", *lengths, u, device);
  a.n_rows = u.sizes[0], a.channels = u.sizes[1], a.positions = u.sizes[2], a.width = x.sizes[2];
  if (a.n_rows == 0 || a.channels == 0 || a.width == 0) return;
  const DeviceGuard guard(device, "prefill_inputs", u);
  check_cuda(cuda::launch_prefill_inputs(p, current_stream(device)), "prefill_inputs", u, device);
}

void prefill_outputs(Tensor z_, Tensor u_, OptionalTensor pre_, OptionalTensor post_,
                     OptionalTensor skip_, Tensor y_, OptionalTensor prompt_fill_, Tensor ring_,
                     Tensor rows, OptionalTensor starts, Tensor ends, int64_t layer,
                     int64_t first_channel) {
  const int32_t device = device_of(u_);
  cuda::OutputsParams p{};
  cuda::OutputsShape& a = p.shape;
  const View u = tokens(u_, device, p.u_at);
  p.io = io_of(u);
  p.u = u.data;
  p.pre = gate("pre", pre_, u, device, p.pre_at);
  p.post = gate("post", post_, u, device, p.post_at);
  const View y = signal("y", y_, device, p.y_at);
  check_same(y, u);
  p.y = y.data;
  const View ring = on_device("ring", ring_, device);
  check_dim(ring, 5), check_contiguous(ring), check_size(ring, 2, 1);
  a.stored = io_of(ring);
  const int64_t layers = ring.sizes[0];
  a.batch = ring.sizes[1], a.slots = ring.sizes[3], a.lanes = ring.sizes[4];
  a.length = a.slots;
  if (prompt_fill_) {
    const View fill = on_device("prompt_fill", *prompt_fill_, device);
    check_dim(fill, 5), check_contiguous(fill), check_size(fill, 2, 1);
    STD_TORCH_CHECK(fill.dtype == ring.dtype, "expected prompt_fill of the dtype of ring");
    check_size(fill, 0, layers), check_size(fill, 1, a.batch), check_size(fill, 4, a.lanes);
    a.length = fill.sizes[3];
    STD_TORCH_CHECK(a.length <= a.slots, "expected prompt_fill with at most ", a.slots,
                    " positions, got shape ", shape_text(fill));
    p.prompt_fill = fill.data;
  }
  STD_TORCH_CHECK(layer >= 0 && layer < layers, "expected layer in 0 .. ", layers - 1, ", got ",
                  layer);
  a.n_rows = u.sizes[0], a.channels = u.sizes[1], a.positions = u.sizes[2];
  STD_TORCH_CHECK(first_channel >= 0 && first_channel + a.channels <= a.lanes,
                  "expected channels of ring ", shape_text(ring), ", got ", first_channel, " .. ",
                  first_channel + a.channels - 1);
  const View z = signal("z", z_, device, p.z_at);
  check_like(z, u, a.length), check_float32(z);
  p.z = static_cast<const float*>(z.data);
  if (skip_) {
    const View skip = on_device("skip", *skip_, device);
    check_dim(skip, 2), check_contiguous(skip), check_float32(skip);
    check_size(skip, 0, layers), check_size(skip, 1, a.lanes);
    p.skip = static_cast<const float*>(skip.data);
  }
  p.ring = ring.data;
  p.rows = per_row("rows", rows, u, device);
  if (starts) p.starts = per_row("starts", *starts, u, device);
  p.ends = per_row("ends", ends, u, device);
  if (a.n_rows == 0 || a.channels == 0) return;
  const DeviceGuard guard(device, "prefill_outputs", u);
  check_cuda(
      cuda::launch_prefill_outputs(cuda::at_layer(p, layer, first_channel), current_stream(device)),
      "prefill_outputs", u, device);
}

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CUDA, m) {
  m.impl("prefill_inputs", TORCH_BOX(&prefill_inputs));
  m.impl("prefill_outputs", TORCH_BOX(&prefill_outputs));
}

}  // namespace
}  // namespace futurefill
