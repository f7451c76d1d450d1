// The CPU ops of a prompt that comes in many calls.
#include <torch/csrc/stable/library.h>

#include "bindings/tensors.h"
#include "bindings/threads.h"
#include "cpu/engine.h"
#include "infra/parallel.h"

namespace futurefill {
namespace {

Scalar real_type(const View& v) {
  const Scalar type = scalar_of(v);
  STD_TORCH_CHECK(type == Scalar::kFloat32 || type == Scalar::kFloat64, "expected ", v.name,
                  " of dtype float32 or float64");
  return type;
}

void check_block(int64_t block) {
  STD_TORCH_CHECK(block >= 1 && (block & (block - 1)) == 0,
                  "expected block to be a power of two, got ", block);
}

int64_t lanes_of(Scalar type) {
  return type == Scalar::kFloat64 ? engine().lanes64 : engine().lanes32;
}

// Contiguous but for the distance of the entries of its first `apart` dimensions.
void check_inner(const View& v, int64_t dim, int64_t apart = 1) {
  check_dim(v, dim);
  for (int64_t d = 0; d < dim; ++d) {
    if (v.sizes[d] == 0) return;
  }
  int64_t stride = 1;
  for (int64_t d = dim - 1; d >= apart; --d) {
    STD_TORCH_CHECK(v.sizes[d] <= 1 || v.strides[d] == stride, "expected ", v.name,
                    " to be contiguous in all dimensions but the first", apart > 1 ? " two" : "");
    stride *= v.sizes[d];
  }
}

void check_tiles(const View& v, int64_t d, Scalar type, int64_t channels) {
  const int64_t lanes = lanes_of(type);
  check_size(v, d, (channels + lanes - 1) / lanes);
}

// Of filters h, the one of `channels` over a block.
SpectrumParams spectrum_of(const View& h, int64_t channels, int64_t block, int64_t k) {
  check_inner(h, 2);
  check_block(block);
  STD_TORCH_CHECK(h.sizes[0] >= 1 && channels >= 1 && channels % h.sizes[0] == 0,
                  "expected h with a divisor of ", channels, " filters, got ", h.sizes[0]);
  STD_TORCH_CHECK(k >= 0, "expected k >= 0, got ", k);
  SpectrumParams p{};
  p.type = real_type(h);
  p.h = h.data, p.channels = channels, p.channels_per_filter = channels / h.sizes[0];
  p.taps = h.sizes[1], p.h_stride = h.strides[0], p.block = block, p.k = k;
  return p;
}

void prompt_spectrum(Tensor h_, Tensor spectrum_, int64_t channels, int64_t block, int64_t k) {
  const View h("h", h_), spectrum("spectrum", spectrum_);
  check_inner(spectrum, 2);
  SpectrumParams p = spectrum_of(h, channels, block, k);
  STD_TORCH_CHECK(spectrum.dtype == h.dtype, "expected spectrum of the dtype of h");
  check_tiles(spectrum, 0, p.type, channels);
  check_size(spectrum, 1, block * 2 * lanes_of(p.type));
  p.spectrum = spectrum.data, p.spectrum_stride = spectrum.strides[0];
  run_spectrum_jobs(p, thread_count());
}

// Slots at a position of a block.
PromptParams at_slots(const View& slots, int64_t channels, int64_t position, int64_t block) {
  check_inner(slots, 4);
  check_block(block);
  PromptParams p{};
  p.type = real_type(slots);
  STD_TORCH_CHECK(channels >= 1, "expected channels >= 1, got ", channels);
  STD_TORCH_CHECK(slots.sizes[0] >= 1, "expected slots of at least one row");
  check_tiles(slots, 1, p.type, channels);
  check_size(slots, 3, lanes_of(p.type));
  STD_TORCH_CHECK(position >= 0 && position / block * block + block <= slots.sizes[2],
                  "expected position in a block of slots ", slots.sizes[2], ", got ", position);
  p.rows = slots.sizes[0], p.slots = slots.data, p.slots_row = slots.strides[0];
  p.channels = channels, p.room = slots.sizes[2];
  p.position = position, p.block = block, p.blocks = 1;
  return p;
}

// What a block and a fill have in common.
PromptParams checked(const View& slots, const View& spectra, const View& kept, int64_t channels,
                     int64_t position, int64_t block, int64_t blocks) {
  PromptParams p = at_slots(slots, channels, position, block);
  check_inner(spectra, 3);
  check_inner(kept, 4);
  check_size(kept, 0, p.rows);
  check_tiles(spectra, 0, p.type, channels);
  check_tiles(kept, 1, p.type, channels);
  for (const View* v : {&spectra, &kept}) {
    STD_TORCH_CHECK(v->dtype == slots.dtype, "expected ", v->name, " of the dtype of slots");
    check_size(*v, v->dim - 1, block * 2 * lanes_of(p.type));
  }
  STD_TORCH_CHECK(blocks >= 1 && blocks <= spectra.sizes[1], "expected at most ", spectra.sizes[1],
                  " blocks, as there are spectra, got ", blocks);
  p.spectra = spectra.data, p.spectra_stride = spectra.strides[0];
  p.kept = kept.data, p.kept_row = kept.strides[0], p.n_kept = kept.sizes[2];
  p.blocks = blocks;
  return p;
}

void check_newest(int64_t newest, int64_t blocks, int64_t n_kept) {
  STD_TORCH_CHECK(newest >= blocks - 1 && blocks - 1 <= n_kept,
                  "expected as many kept blocks before the newest as are added, got ", newest,
                  " and ", n_kept, " kept ones for ", blocks);
}

void prompt_block(Tensor u_, Tensor y_, Tensor slots_, Tensor spectra_, Tensor kept_, Tensor sums_,
                  int64_t position, int64_t block, int64_t newest, int64_t blocks) {
  const View u("u", u_), y("y", y_), slots("slots", slots_), spectra("spectra", spectra_);
  const View kept("kept", kept_), sums("sums", sums_);
  check_inner(u, 3, 2);
  check_inner(y, 3, 2);
  PromptParams p = checked(slots, spectra, kept, u.sizes[1], position, block, blocks);
  STD_TORCH_CHECK(u.dtype == slots.dtype && y.dtype == slots.dtype,
                  "expected u and y of the dtype of slots");
  check_size(u, 0, p.rows);
  for (int64_t d : {0, 1, 2}) check_size(y, d, u.sizes[d]);
  p.u = u.data, p.y = y.data, p.length = u.sizes[2];
  p.u_row = u.strides[0], p.u_channel = u.strides[1];
  p.y_row = y.strides[0], p.y_channel = y.strides[1];
  STD_TORCH_CHECK(p.length >= 1 && position % block + p.length <= block,
                  "expected u inside one block of ", block, ", got ", p.length, " positions from ",
                  position, " on");
  if (p.length < block) {
    STD_TORCH_CHECK(blocks == 1, "expected one block where it is not whole, got ", blocks);
    p.n_kept = 0;
  }
  check_newest(newest, blocks, p.n_kept);
  check_dim(sums, 2);
  check_contiguous(sums);
  check_size(sums, 0, p.rows);
  check_tiles(sums, 1, p.type, p.channels);
  STD_TORCH_CHECK(sums.dtype == slots.dtype, "expected sums of the dtype of slots");
  p.newest = newest, p.sums = sums.data;
  run_prompt_jobs(p, thread_count());
}

void prompt_fill(Tensor slots_, Tensor spectra_, Tensor kept_, int64_t channels, int64_t position,
                 int64_t block, int64_t blocks) {
  const View slots("slots", slots_), spectra("spectra", spectra_), kept("kept", kept_);
  PromptParams p = checked(slots, spectra, kept, channels, position, block, blocks);
  STD_TORCH_CHECK(position >= block && position % block == 0,
                  "expected position at the end of a block of ", block, ", got ", position);
  check_newest(blocks - 1, blocks, p.n_kept);
  p.newest = blocks - 1;
  run_prompt_jobs(p, thread_count());
}

void prompt_first_fill(Tensor slots_, Tensor h_, int64_t channels, int64_t block) {
  const View slots("slots", slots_), h("h", h_);
  PromptParams p = at_slots(slots, channels, block, block);
  STD_TORCH_CHECK(h.dtype == slots.dtype, "expected h of the dtype of slots");
  p.unwritten = spectrum_of(h, channels, block, 1);
  run_prompt_jobs(p, thread_count());
}

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CPU, m) {
  m.impl("prompt_spectrum", TORCH_BOX(&prompt_spectrum));
  m.impl("prompt_block", TORCH_BOX(&prompt_block));
  m.impl("prompt_fill", TORCH_BOX(&prompt_fill));
  m.impl("prompt_first_fill", TORCH_BOX(&prompt_first_fill));
}

}  // namespace
}  // namespace futurefill
