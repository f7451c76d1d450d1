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

// Contiguous but for the distance of its first dimension's entries.
void check_inner(const View& v, int64_t dim) {
  check_dim(v, dim);
  int64_t stride = 1;
  for (int64_t d = dim - 1; d >= 1; --d) {
    STD_TORCH_CHECK(v.sizes[d] <= 1 || v.strides[d] == stride, "expected ", v.name,
                    " to be contiguous in all dimensions but the first");
    stride *= v.sizes[d];
  }
}

void check_tiles(const View& v, Scalar type, int64_t channels) {
  const int64_t lanes = lanes_of(type);
  check_size(v, 0, (channels + lanes - 1) / lanes);
}

void prompt_spectrum(Tensor h_, Tensor spectrum_, int64_t channels, int64_t block, int64_t k) {
  const View h("h", h_), spectrum("spectrum", spectrum_);
  check_inner(h, 2);
  check_inner(spectrum, 2);
  check_block(block);
  SpectrumParams p{};
  p.type = real_type(h);
  STD_TORCH_CHECK(spectrum.dtype == h.dtype, "expected spectrum of the dtype of h");
  STD_TORCH_CHECK(h.sizes[0] >= 1 && channels >= 1 && channels % h.sizes[0] == 0,
                  "expected h with a divisor of ", channels, " filters, got ", h.sizes[0]);
  STD_TORCH_CHECK(k >= 0, "expected k >= 0, got ", k);
  check_tiles(spectrum, p.type, channels);
  check_size(spectrum, 1, block * 2 * lanes_of(p.type));
  p.h = h.data, p.spectrum = spectrum.data;
  p.channels = channels, p.channels_per_filter = channels / h.sizes[0];
  p.taps = h.sizes[1], p.h_stride = h.strides[0], p.spectrum_stride = spectrum.strides[0];
  p.block = block, p.k = k;
  run_spectrum_jobs(p, thread_count());
}

// What a block and a fill have in common.
PromptParams checked(const View& slots, const View& spectra, const View& kept, int64_t channels,
                     int64_t position, int64_t block, int64_t blocks) {
  check_dim(slots, 3);
  check_contiguous(slots);
  check_inner(spectra, 3);
  check_dim(kept, 3);
  check_contiguous(kept);
  check_block(block);
  PromptParams p{};
  p.type = real_type(slots);
  const int64_t lanes = lanes_of(p.type);
  STD_TORCH_CHECK(channels >= 1, "expected channels >= 1, got ", channels);
  check_size(slots, 2, lanes);
  for (const View* v : {&slots, &spectra, &kept}) check_tiles(*v, p.type, channels);
  for (const View* v : {&spectra, &kept}) {
    STD_TORCH_CHECK(v->dtype == slots.dtype, "expected ", v->name, " of the dtype of slots");
    check_size(*v, 2, block * 2 * lanes);
  }
  STD_TORCH_CHECK(position >= 0 && position / block * block + block <= slots.sizes[1],
                  "expected position in a block of slots ", slots.sizes[1], ", got ", position);
  STD_TORCH_CHECK(blocks >= 1 && blocks <= spectra.sizes[1], "expected at most ", spectra.sizes[1],
                  " blocks, as there are spectra, got ", blocks);
  p.slots = slots.data, p.spectra = spectra.data, p.kept = kept.data;
  p.channels = channels, p.room = slots.sizes[1], p.n_kept = kept.sizes[1];
  p.spectra_stride = spectra.strides[0];
  p.position = position, p.block = block, p.blocks = blocks;
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
  check_inner(u, 2);
  check_inner(y, 2);
  PromptParams p = checked(slots, spectra, kept, u.sizes[0], position, block, blocks);
  STD_TORCH_CHECK(u.dtype == slots.dtype && y.dtype == slots.dtype,
                  "expected u and y of the dtype of slots");
  check_size(y, 0, u.sizes[0]);
  check_size(y, 1, u.sizes[1]);
  p.u = u.data, p.y = y.data, p.length = u.sizes[1];
  p.u_stride = u.strides[0], p.y_stride = y.strides[0];
  STD_TORCH_CHECK(p.length >= 1 && position % block + p.length <= block,
                  "expected u inside one block of ", block, ", got ", p.length, " positions from ",
                  position, " on");
  if (p.length < block) {
    STD_TORCH_CHECK(blocks == 1, "expected one block where it is not whole, got ", blocks);
    p.n_kept = 0;
  }
  check_newest(newest, blocks, p.n_kept);
  check_dim(sums, 1);
  check_contiguous(sums);
  check_tiles(sums, p.type, p.channels);
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

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CPU, m) {
  m.impl("prompt_spectrum", TORCH_BOX(&prompt_spectrum));
  m.impl("prompt_block", TORCH_BOX(&prompt_block));
  m.impl("prompt_fill", TORCH_BOX(&prompt_fill));
}

}  // namespace
}  // namespace futurefill
