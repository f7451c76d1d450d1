// The CPU op of whole sequences.
#include <torch/csrc/stable/library.h>

#include "bindings/tensors.h"
#include "bindings/threads.h"
#include "cpu/engine.h"
#include "infra/parallel.h"

namespace futurefill {
namespace {

void check_sequences(const View& v, int64_t dim) {
  check_dim(v, dim);
  STD_TORCH_CHECK(v.sizes[dim - 1] <= 1 || v.strides[dim - 1] == 1, "expected ", v.name,
                  " contiguous in its last dimension");
  for (int64_t d = 0; d < dim; ++d) {
    STD_TORCH_CHECK(v.sizes[d] >= 1, "expected ", v.name, " that is not empty");
  }
}

void offline_conv(Tensor u_, Tensor h_, Tensor y_, int64_t start, int64_t stop, int64_t block) {
  const View u("u", u_), h("h", h_), y("y", y_);
  check_sequences(u, 3);
  check_sequences(h, 2);
  check_sequences(y, 3);
  check_contiguous(y);
  ConvParams p{};
  p.type = scalar_of(u);
  STD_TORCH_CHECK(p.type == Scalar::kFloat32 || p.type == Scalar::kFloat64,
                  "expected u of dtype float32 or float64");
  STD_TORCH_CHECK(h.dtype == u.dtype && y.dtype == u.dtype, "expected h and y of the dtype of u");
  STD_TORCH_CHECK(start >= 0 && stop > start, "expected 0 <= start < stop, got ", start, " and ",
                  stop);
  STD_TORCH_CHECK(block >= 1 && (block & (block - 1)) == 0, "expected block to be a power of two, ",
                  "got ", block);
  check_size(y, 0, u.sizes[0]);
  check_size(y, 1, u.sizes[1]);
  check_size(y, 2, stop - start);
  STD_TORCH_CHECK(u.sizes[1] % h.sizes[0] == 0, "expected h with a divisor of ", u.sizes[1],
                  " filters, got ", h.sizes[0]);
  p.u = u.data, p.h = h.data, p.y = y.data;
  p.batch = u.sizes[0], p.channels = u.sizes[1], p.length = u.sizes[2];
  p.u_row = u.strides[0], p.u_channel = u.strides[1], p.h_stride = h.strides[0];
  p.channels_per_filter = u.sizes[1] / h.sizes[0];
  p.taps = h.sizes[1] < stop ? h.sizes[1] : stop;
  p.start = start, p.stop = stop, p.block = block;
  run_conv_jobs(p, thread_count(), engine().offline_conv);
}

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

int64_t tiles_of(Scalar type, int64_t channels) {
  const int64_t lanes = type == Scalar::kFloat64 ? engine().lanes64 : engine().lanes32;
  return (channels + lanes - 1) / lanes;
}

int64_t spectrum_values(bool is_double, int64_t block) {
  check_block(block);
  return engine().spectrum_values(is_double ? Scalar::kFloat64 : Scalar::kFloat32, block);
}

void block_spectrum(Tensor h_, Tensor spectrum_, int64_t channels, int64_t block, int64_t k) {
  const View h("h", h_), spectrum("spectrum", spectrum_);
  check_sequences(h, 2);
  check_dim(spectrum, 2);
  check_contiguous(spectrum);
  check_block(block);
  ConvParams p{};
  p.type = real_type(h);
  STD_TORCH_CHECK(spectrum.dtype == h.dtype, "expected spectrum of the dtype of h");
  STD_TORCH_CHECK(channels >= 1 && channels % h.sizes[0] == 0, "expected h with a divisor of ",
                  channels, " filters, got ", h.sizes[0]);
  STD_TORCH_CHECK(k >= 0, "expected k >= 0, got ", k);
  check_size(spectrum, 0, tiles_of(p.type, channels));
  check_size(spectrum, 1, engine().spectrum_values(p.type, block));
  p.h = h.data, p.y = spectrum.data;
  p.batch = 1, p.channels = channels, p.length = p.block = block, p.taps = h.sizes[1];
  p.channels_per_filter = channels / h.sizes[0], p.h_stride = h.strides[0];
  p.start = k;
  run_conv_jobs(p, thread_count(), engine().block_spectrum);
}

void block_conv(Tensor u_, Tensor spectrum_, Tensor y_, int64_t block) {
  const View u("u", u_), spectrum("spectrum", spectrum_), y("y", y_);
  check_sequences(u, 3);
  check_sequences(y, 3);
  check_contiguous(y);
  check_dim(spectrum, 2);
  check_contiguous(spectrum);
  check_block(block);
  ConvParams p{};
  p.type = real_type(u);
  STD_TORCH_CHECK(spectrum.dtype == u.dtype && y.dtype == u.dtype,
                  "expected spectrum and y of the dtype of u");
  check_size(y, 0, u.sizes[0]);
  check_size(y, 1, u.sizes[1]);
  STD_TORCH_CHECK(u.sizes[2] <= block && y.sizes[2] <= block, "expected at most ", block,
                  " positions in u and y, got ", u.sizes[2], " and ", y.sizes[2]);
  check_size(spectrum, 0, tiles_of(p.type, u.sizes[1]));
  check_size(spectrum, 1, engine().spectrum_values(p.type, block));
  p.u = u.data, p.h = spectrum.data, p.y = y.data;
  p.batch = u.sizes[0], p.channels = u.sizes[1], p.length = u.sizes[2];
  p.u_row = u.strides[0], p.u_channel = u.strides[1];
  p.stop = y.sizes[2], p.block = block;
  run_conv_jobs(p, thread_count(), engine().block_conv);
}

void blocks_conv(Tensor u_, Tensor spectra_, Tensor kept_, Tensor y_, int64_t block, int64_t slot,
                 int64_t shift) {
  const View u("u", u_), spectra("spectra", spectra_), kept("kept", kept_), y("y", y_);
  check_sequences(u, 3);
  check_dim(y, 3);
  check_contiguous(y);
  for (const View* v : {&spectra, &kept}) {
    check_dim(*v, 3);
    check_contiguous(*v);
  }
  check_block(block);
  ConvParams p{};
  p.type = real_type(u);
  STD_TORCH_CHECK(spectra.dtype == u.dtype && kept.dtype == u.dtype && y.dtype == u.dtype,
                  "expected spectra, kept and y of the dtype of u");
  check_size(u, 0, 1);
  check_size(y, 0, 1);
  check_size(y, 1, u.sizes[1]);
  STD_TORCH_CHECK(u.sizes[2] <= block && y.sizes[2] <= block, "expected at most ", block,
                  " positions in u and y, got ", u.sizes[2], " and ", y.sizes[2]);
  for (const View* v : {&spectra, &kept}) {
    check_size(*v, 1, tiles_of(p.type, u.sizes[1]));
    check_size(*v, 2, engine().spectrum_values(p.type, block));
  }
  STD_TORCH_CHECK(shift == 0 || shift == 1, "expected shift 0 or 1, got ", shift);
  STD_TORCH_CHECK(slot >= 0 && slot < kept.sizes[0] && slot + shift < spectra.sizes[0],
                  "expected slot below ", kept.sizes[0], " and slot + shift below ",
                  spectra.sizes[0], ", got ", slot, " and ", shift);
  p.u = u.data, p.h = spectra.data, p.kept = kept.data, p.y = y.data;
  p.batch = 1, p.channels = u.sizes[1], p.length = u.sizes[2];
  p.u_row = u.strides[0], p.u_channel = u.strides[1];
  p.start = shift, p.stop = y.sizes[2], p.block = block, p.slot = slot;
  run_conv_jobs(p, thread_count(), engine().blocks_conv);
}

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CPU, m) {
  m.impl("offline_conv", TORCH_BOX(&offline_conv));
  m.impl("block_spectrum", TORCH_BOX(&block_spectrum));
  m.impl("block_conv", TORCH_BOX(&block_conv));
  m.impl("blocks_conv", TORCH_BOX(&blocks_conv));
}

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CompositeExplicitAutograd, m) {
  m.impl("spectrum_values", TORCH_BOX(&spectrum_values));
}

}  // namespace
}  // namespace futurefill
