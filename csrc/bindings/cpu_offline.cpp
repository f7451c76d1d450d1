// The CPU op of whole sequences.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>

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

void offline_conv(Tensor u_, Tensor h_, Tensor y_, int64_t start, int64_t stop, int64_t block,
                  std::optional<Tensor> spectra_, bool made) {
  const View u("u", u_), h("h", h_), y("y", y_);
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
  check_size(y, 2, stop - start);
  const int64_t channels = y.sizes[1];
  const int64_t lanes = p.type == Scalar::kFloat64 ? engine().lanes64 : engine().lanes32;
  if (u.dim == 4) {  // in tiles
    STD_TORCH_CHECK(u.sizes[1] == (channels + lanes - 1) / lanes && u.sizes[2] >= 1 &&
                        u.sizes[3] == lanes && u.strides[3] == 1,
                    "expected u (B, tiles, P, ", lanes, ") of ", channels, " channels, got shape ",
                    shape_text(u));
    p.length = u.sizes[2];
    p.u_tile = u.strides[1], p.u_step = u.strides[2], p.u_channel = 1;
  } else {
    check_sequences(u, 3);
    check_size(y, 1, u.sizes[1]);
    p.length = u.sizes[2];
    p.u_channel = u.strides[1], p.u_tile = lanes * p.u_channel, p.u_step = 1;
  }
  check_size(y, 0, u.sizes[0]);
  STD_TORCH_CHECK(channels % h.sizes[0] == 0, "expected h with a divisor of ", channels,
                  " filters, got ", h.sizes[0]);
  p.u = u.data, p.h = h.data, p.y = y.data;
  p.batch = u.sizes[0], p.channels = channels, p.u_row = u.strides[0];
  p.h_stride = h.strides[0], p.channels_per_filter = channels / h.sizes[0];
  p.taps = h.sizes[1] < stop ? h.sizes[1] : stop;
  p.start = start, p.stop = stop, p.block = block;
  STD_TORCH_CHECK(spectra_ || !made, "expected spectra where they are made");
  if (spectra_) {
    const View spectra("spectra", *spectra_);
    const int64_t blocks = (p.taps + block - 1) / block;
    p.taps = std::min(h.sizes[1], blocks * block);  // whole blocks serve other stops as well
    check_dim(spectra, 3);
    check_contiguous(spectra);
    STD_TORCH_CHECK(spectra.dtype == u.dtype, "expected spectra of the dtype of u");
    check_size(spectra, 0, (channels + lanes - 1) / lanes);
    check_size(spectra, 1, blocks);
    check_size(spectra, 2, (block + kWorkGaps) * 2 * lanes);
    p.spectra = spectra.data, p.spectra_tile = spectra.strides[0], p.made = made;
  }
  run_conv_jobs(p, thread_count());
}

STABLE_TORCH_LIBRARY_IMPL(futurefill_kernels, CPU, m) {
  m.impl("offline_conv", TORCH_BOX(&offline_conv));
}

}  // namespace
}  // namespace futurefill
