// A stream through the CPU kernels without torch, for sanitizer builds (tests/sanitize.sh); exits 1
// when it is wrong.
#include <cmath>
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
  s.taps = taps.data();
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

double offline_error(int64_t length, int64_t taps, int64_t block, int threads) {
  constexpr int64_t W = FF_VECTOR_BYTES / 4, channels = 2 * W + 1;
  const int64_t start = length / 3, stop = length + taps / 2;
  std::vector<float> u(channels * length), h(channels * taps), y(channels * (stop - start));
  for (size_t i = 0; i < u.size(); ++i) u[i] = std::cos(1.3f * i);
  for (size_t i = 0; i < h.size(); ++i) h[i] = std::sin(0.7f * i);
  ConvParams p{};
  p.u = u.data(), p.h = h.data(), p.y = y.data(), p.batch = 1, p.channels = channels;
  p.length = length, p.taps = taps, p.channels_per_filter = 1, p.u_channel = length,
  p.h_stride = taps;
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
  for (int64_t block : {48, 2048, 16384}) worst = std::fmax(worst, stages_error(block, 3));
  for (int64_t block : {1, 4, 16, 128}) {
    for (int threads : {1, 3}) worst = std::fmax(worst, offline_error(101, 77, block, threads));
  }
  std::printf("largest error %.2e\n", worst);
  return worst < 1e-4 ? 0 : 1;
}
