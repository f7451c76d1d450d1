// The CPU kernels without torch against plain loops, for sanitizer builds (tests/sanitize.sh) and
// for other processors under an emulator (test_aarch64.py); exits 1 when they are wrong.
#include <cmath>
#include <complex>
#include <cstdio>
#include <thread>
#include <vector>

#include "engine.h"

namespace futurefill::FF_ISA {
void short_range_step(const StepParams&, int64_t, int64_t);
void future_fill(const FillParams&, int64_t, int64_t);
int64_t fill_stages(const StageParams&);
void fill_stage(const StageParams&, int64_t, int64_t, int64_t);
void offline_conv(const ConvParams&, int64_t, int64_t);
}  // namespace futurefill::FF_ISA

using namespace futurefill;

// One level of direct products (radix 2 above T_0) over three tiles, jobs split over `threads`.
double worst_error(int64_t length, int64_t block, int threads) {
  constexpr int64_t W = FF_VECTOR_BYTES / 4, tiles = 3, channels = 2 * W + 1;
  const int64_t radix = (length + block - 1) / block, k = radix - 1;
  const int64_t rows = ((k + 1) * block + 1) / 2;
  std::vector<float> ring(tiles * length * W), taps(tiles * block * W),
      spectra(tiles * rows * 2 * W);
  std::vector<float> u(channels), y(channels), inputs(length * channels), h(length * channels);
  for (size_t i = 0; i < h.size(); ++i) {
    h[i] = std::sin(0.7f * i + 1);
    inputs[i] = std::cos(1.3f * i);
  }
  for (int64_t t = 0; t < length; ++t) {
    for (int64_t c = 0; c < channels; ++c) {
      const float tap = h[t * channels + c];
      if (t < block) taps[(c / W * block + t) * W + c % W] = tap;
      if (t < rows * 2) spectra[(c / W * rows * 2 + t) * W + c % W] = tap;
    }
  }
  std::vector<float> undo(tiles * W);
  StepParams s{};
  s.n_rows = 1, s.u = u.data(), s.y = y.data(), s.ring = ring.data(), s.undo = undo.data(),
  s.undo_slots = 1, s.taps = taps.data();
  s.channels = channels, s.tiles = tiles, s.slots = length, s.block = block;
  FillParams f{};
  f.n_rows = 1, f.ring = ring.data(), f.spectra = spectra.data();
  f.layers = 1, f.batch = 1, f.tiles = tiles, f.filter_tiles = tiles, f.slots = length;
  f.spectra_rows = rows, f.length = length, f.block = block, f.radix = radix, f.n_spectra = k;
  f.direct = true;
  double worst = 0;
  for (int64_t t = 0; t < length; ++t) {
    RowAt row{0, 0, t};
    s.rows = f.rows = &row;
    for (int64_t c = 0; c < channels; ++c) u[c] = inputs[t * channels + c];
    FF_ISA::short_range_step(s, 0, tiles);
    for (int64_t c = 0; c < channels; ++c) {
      double expected = 0;
      for (int64_t i = 0; i <= t; ++i) {
        expected += double(h[i * channels + c]) * inputs[(t - i) * channels + c];
      }
      worst = std::fmax(worst, std::fabs(expected - y[c]));
    }
    row.position = t + 1;
    if (row.position >= length || row.position % block) continue;
    // the transform of the same level writes other memory; run it on a copy for the sanitizer
    std::vector<float> copy(ring), kept(tiles * k * block * 4 * W), any(tiles * k * block * 4 * W);
    FillParams g = f;
    g.direct = false, g.ring = copy.data(), g.kept = kept.data(), g.spectra = any.data();
    g.kept_rows = g.spectra_rows = 2 * k * block;
    std::vector<std::thread> workers;
    for (int w = 0; w < threads; ++w) {
      workers.emplace_back([&, w] {
        FF_ISA::future_fill(f, tiles * w / threads, tiles * (w + 1) / threads);
        FF_ISA::future_fill(g, tiles * w / threads, tiles * (w + 1) / threads);
      });
    }
    for (auto& worker : workers) worker.join();
  }
  return worst;
}

// A fill in stages, tiles side by side on threads of their own, against the same fill at once.
double stages_error(int64_t block, int threads) {
  constexpr int64_t W = FF_VECTOR_BYTES / 4;
  const int64_t tiles = threads, gaps = futurefill::kWorkGaps;
  int64_t n = 1;
  while (n < block) n *= 2;
  std::vector<float> ring(tiles * 2 * block * W), spectra(tiles * n * 2 * W), kept(1);
  std::vector<float> work(tiles * (n + gaps) * 2 * W);
  for (size_t i = 0; i < ring.size(); ++i) ring[i] = std::sin(0.3f * i);
  for (size_t i = 0; i < spectra.size(); ++i) spectra[i] = std::cos(0.9f * i) / n;
  std::vector<float> whole(ring);
  const RowAt row{0, 0, block};
  StageParams s{};
  FillParams& f = s.fill;
  f.rows = &row, f.n_rows = 1, f.ring = whole.data(), f.kept = kept.data();
  f.spectra = spectra.data(), f.layers = 1, f.batch = 1, f.tiles = f.filter_tiles = tiles;
  f.slots = f.length = 2 * block, f.spectra_rows = n, f.block = block, f.radix = 2, f.n_spectra = 1;
  FF_ISA::future_fill(f, 0, tiles);
  f.ring = ring.data();
  s.work = work.data(), s.side_by_side = tiles, s.work_rows = n + gaps;
  for (int64_t stage = 0; stage < FF_ISA::fill_stages(s); ++stage) {
    std::vector<std::thread> workers;
    for (int64_t w = 0; w < tiles; ++w) {
      workers.emplace_back([&, w] { FF_ISA::fill_stage(s, stage, w, w + 1); });
    }
    for (auto& worker : workers) worker.join();
  }
  double worst = 0;
  for (size_t i = 0; i < ring.size(); ++i) worst = std::fmax(worst, std::fabs(ring[i] - whole[i]));
  return worst;
}

// Values of z, complex polynomials (n), at the roots of x^n = i in the tree's order, over n: what a
// filter spectrum is (docs/algorithm.md).
template <class S>
std::vector<std::complex<double>> spectrum(const std::vector<std::complex<S>>& z) {
  const size_t n = z.size();
  std::vector<double> turns{0.25};
  while (turns.size() < n) {
    std::vector<double> children;
    for (double t : turns) children.insert(children.end(), {t / 2, t / 2 + 0.5});
    turns = children;
  }
  std::vector<std::complex<double>> values(n);
  for (size_t r = 0; r < n; ++r) {
    for (size_t k = 0; k < n; ++k) {
      const double angle = 2 * M_PI * std::fmod(turns[r] * double(k), 1.0);
      values[r] += std::complex<double>(z[k]) * std::polar(1.0 / double(n), angle);
    }
  }
  return values;
}

// The first fill of a block by transforms, two rows of a batch and three tiles, one filter per lane
// or one for all channels.
template <class S>
double transform_error(int64_t block, bool shared) {
  constexpr int64_t W = FF_VECTOR_BYTES / sizeof(S), tiles = 3, batch = 2;
  int64_t n = 1;
  while (n < block) n *= 2;
  const int64_t filter_tiles = shared ? 1 : tiles, lanes = shared ? 1 : W;
  std::vector<S> ring(batch * tiles * 2 * block * W), spectra(filter_tiles * n * 2 * lanes),
      kept(1);
  for (size_t i = 0; i < ring.size(); ++i) ring[i] = S(std::sin(0.3 * double(i)));
  const auto tap = [&](int64_t filter, int64_t s) {
    return std::cos(0.7 * double(filter) + 0.9 * double(s));
  };
  for (int64_t filter = 0; filter < filter_tiles * lanes; ++filter) {
    std::vector<double> packed(2 * n);
    for (int64_t s = 0; s < 2 * block; ++s) packed[n - block + s] = tap(filter, s);
    std::vector<std::complex<double>> z(n);
    for (int64_t k = 0; k < n; ++k) z[k] = {packed[k], packed[k + n]};
    const auto values = spectrum(z);
    for (int64_t k = 0; k < n; ++k) {
      S* at = spectra.data() + (filter / lanes * n + k) * 2 * lanes + filter % lanes;
      at[0] = S(values[k].real()), at[lanes] = S(values[k].imag());
    }
  }
  std::vector<S> found(ring);
  const RowAt rows[] = {{0, 0, block}, {1, 1, block}};
  FillParams f{};
  f.state = sizeof(S) == 8 ? Scalar::kFloat64 : Scalar::kFloat32;
  f.rows = rows, f.n_rows = batch, f.ring = found.data(), f.kept = kept.data();
  f.spectra = spectra.data(), f.layers = 1, f.batch = batch, f.tiles = tiles;
  f.filter_tiles = filter_tiles, f.slots = f.length = 2 * block, f.spectra_rows = n;
  f.channels_per_filter = shared ? tiles * W : 0;
  f.block = block, f.radix = 2, f.n_spectra = 1;
  FF_ISA::future_fill(f, 0, tiles);
  double worst = 0;
  for (int64_t tile = 0; tile < batch * tiles; ++tile) {
    for (int64_t lane = 0; lane < W; ++lane) {
      const int64_t filter = shared ? 0 : tile % tiles * W + lane;
      const auto slot = [&](int64_t t) { return (tile * 2 * block + t) * W + lane; };
      for (int64_t t = block; t < 2 * block; ++t) {
        double expected = ring[slot(t)];
        for (int64_t s = 0; s < block; ++s) expected += tap(filter, t - s) * ring[slot(s)];
        worst = std::fmax(worst, std::fabs(expected - found[slot(t)]) / double(block));
      }
    }
  }
  return worst;
}

double offline_error(int64_t length, int64_t taps, int64_t block, int threads) {
  constexpr int64_t W = FF_VECTOR_BYTES / 4, channels = 2 * W + 1;
  const int64_t start = length / 3, stop = length + taps / 2;
  std::vector<float> u(channels * length), h(channels * taps), y(channels * (stop - start));
  for (size_t i = 0; i < u.size(); ++i) u[i] = std::cos(1.3f * i);
  for (size_t i = 0; i < h.size(); ++i) h[i] = std::sin(0.7f * i);
  ConvParams p{};
  p.u = u.data(), p.h = h.data(), p.y = y.data(), p.batch = 1, p.channels = channels;
  p.length = length, p.taps = taps, p.channels_per_filter = 1, p.u_channel = length,
  p.u_tile = W * length, p.u_step = 1, p.h_stride = taps;
  p.start = start, p.stop = stop, p.block = block;
  std::vector<std::thread> workers;
  for (int w = 0; w < threads; ++w) {
    workers.emplace_back(
        [&, w] { FF_ISA::offline_conv(p, 3 * w / threads, 3 * (w + 1) / threads); });
  }
  for (auto& worker : workers) worker.join();
  double worst = 0;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t t = start; t < stop; ++t) {
      double expected = 0;
      for (int64_t s = 0; s < taps && s <= t; ++s) {
        if (t - s < length) expected += double(h[c * taps + s]) * u[c * length + t - s];
      }
      worst = std::fmax(worst, std::fabs(expected - y[c * (stop - start) + t - start]));
    }
  }
  return worst;
}

int main() {
  double worst = 0;
  for (int64_t block : {1, 5, 8, 16, 48}) {
    for (int threads : {1, 3}) worst = std::fmax(worst, worst_error(101, block, threads));
  }
  for (int64_t block : {1, 8, 24, 64, 100, 256}) {
    for (bool shared : {false, true}) {
      worst = std::fmax(worst, transform_error<float>(block, shared));
      worst = std::fmax(worst, 1e6 * transform_error<double>(block, shared));
    }
  }
  for (int64_t block : {48, 2048, 16384}) worst = std::fmax(worst, stages_error(block, 3));
  for (int64_t block : {1, 4, 16, 128}) {
    for (int threads : {1, 3}) worst = std::fmax(worst, offline_error(101, 77, block, threads));
  }
  std::printf("largest error %.2e\n", worst);
  return worst < 1e-4 ? 0 : 1;
}
