#include "infra/parallel.h"

#include <algorithm>
#include <array>
#include <atomic>

#include "infra/denormals.h"
#include "infra/pool.h"

namespace futurefill {

namespace {

// Values a thread must have to itself for handing them over, 0.1 us, to pay: about 0.5 us of work.
constexpr int64_t kValuesPerThread = 2048;

// Of tiles that go their ways alone: fewer together are called too often for their work.
constexpr int64_t kTilesTogether = 8;
constexpr int64_t kMostGroups = 256;

// Jobs of equal work.
struct Work {
  int64_t jobs, values_per_job;

  int64_t threads(int64_t available) const {
    const int64_t useful = jobs * values_per_job / kValuesPerThread;
    return useful < 2 ? 1 : std::max<int64_t>(1, std::min({useful, jobs, available}));
  }
};

// a token multiplies half of T_0 taps on average
Work step_work(int64_t rows, int64_t tiles, int64_t lanes, int64_t block) {
  return {tiles, rows * lanes * (2 + block / 2)};
}

// Whether a thread does the tiles of a step's thread in every layer: their slots are in its core's
// cache.
bool all_layers_together(int64_t layers, int64_t tiles, int64_t available) {
  return layers > 1 && tiles >= 4 * available;
}

Work fill_work(int64_t rows, int64_t layers, int64_t tiles, int64_t lanes, int64_t block,
               int64_t available) {
  const int64_t values = rows * lanes * block * 8;
  if (all_layers_together(layers, tiles, available)) return {tiles, layers * values};
  return {layers * tiles, values};
}

// run(begin, end) over all jobs, in one piece per thread; equal calls give equal pieces
template <class F>
void spread(const Work& work, int64_t available, const F& run) {
  const int64_t jobs = work.jobs, threads = work.threads(available);
  if (threads < 2) {
    const NoDenormals here;
    return run(0, jobs);
  }
  // run is copied: all that a worker has to fetch from the caller's cache lies together
  const auto piece = [=](int64_t i) {
    const NoDenormals here;
    run(jobs * i / threads, jobs * (i + 1) / threads);
  };
  run_pieces(
      threads, [](const void* context, int64_t i) { (*static_cast<decltype(&piece)>(context))(i); },
      &piece);
}

// run(params, begin, end) with params and a single row copied
template <class Params>
auto with_rows(const Params& params, void (*run)(const Params&, int64_t, int64_t)) {
  const RowAt row = params.n_rows ? *params.rows : RowAt{};
  return [=](int64_t begin, int64_t end) {
    Params here = params;
    if (here.n_rows == 1) here.rows = &row;
    run(here, begin, end);
  };
}

// run over tiles of channels. positions: of a channel that a transform takes
template <class Params>
void spread_tiles(const Params& params, int64_t positions, int64_t available,
                  void (*run)(const Params&, int64_t, int64_t)) {
  const Engine& e = engine();
  const int64_t lanes = params.type == Scalar::kFloat64 ? e.lanes64 : e.lanes32;
  const int64_t tiles = (params.channels + lanes - 1) / lanes;
  spread({tiles, lanes * positions * 8}, available,
         [&](int64_t begin, int64_t end) { run(params, begin, end); });
}

}  // namespace

int64_t step_threads(int64_t rows, int64_t tiles, int64_t lanes, int64_t block, int64_t available) {
  return step_work(rows, tiles, lanes, block).threads(available);
}

int64_t fill_threads(int64_t rows, int64_t layers, int64_t tiles, int64_t lanes, int64_t block,
                     int64_t available) {
  return fill_work(rows, layers, tiles, lanes, block, available).threads(available);
}

void run_step_jobs(const StepParams& params, int64_t available) {
  const StreamKernels& e = engine().of_lanes(params.state, params.lanes);
  spread(step_work(params.n_rows, params.tiles, params.lanes, params.block), available,
         with_rows(params, e.short_range_step));
}

void run_fill_jobs(const FillParams& params, int64_t available) {
  const int64_t layers = params.layers, tiles = params.tiles, lanes = params.lanes;
  const auto fill = with_rows(params, engine().of_lanes(params.state, lanes).future_fill);
  const Work work = fill_work(params.n_rows, layers, tiles, lanes, params.block, available);
  if (!all_layers_together(layers, tiles, available)) return spread(work, available, fill);
  spread(work, available, [=](int64_t begin, int64_t end) {
    for (int64_t l = 0; l < layers; ++l) fill(l * tiles + begin, l * tiles + end);
  });
}

void run_fill_stage(const StageParams& params, int64_t stage, int64_t job_begin, int64_t job_end,
                    int64_t available) {
  const StreamKernels& e = engine().of_lanes(params.fill.state, params.fill.lanes);
  const int64_t values = params.fill.n_rows * params.fill.lanes * params.fill.block * 8;
  spread({job_end - job_begin, values}, available, [&](int64_t begin, int64_t end) {
    e.fill_stage(params, stage, job_begin + begin, job_begin + end);
  });
}

void run_conv_jobs(const ConvParams& params, int64_t available) {
  spread_tiles(params, params.batch * params.length, available, engine().offline_conv);
}

void run_spectrum_jobs(const SpectrumParams& params, int64_t available) {
  spread_tiles(params, 2 * params.block, available, engine().prompt_spectrum);
}

void run_prompt_jobs(const PromptParams& params, int64_t available) {
  spread_tiles(params, params.rows * params.block, available, engine().prompt_block);
}

void run_dense_jobs(const DenseParams& params, int64_t panels, int64_t available) {
  const TokenEngine& e = engine().token;
  const int64_t panel = params.type == Scalar::kFloat64 ? e.panel64 : e.panel32;
  // a weight costs its reading, and rows beyond the first about a third of that each
  spread({panels, params.k * panel * (params.rows + 2) / 6}, available,
         [&](int64_t begin, int64_t end) { e.dense(params, begin, end); });
}

void run_tiles_apart(int64_t tiles, int64_t values, int64_t available,
                     const std::function<void(int64_t, int64_t)>& run) {
  const int64_t threads = Work{tiles, values}.threads(std::min(available, kMostGroups));
  if (threads < 2) {
    const NoDenormals here;
    return run(0, tiles);
  }
  // every thread begins with groups of its own, whose state is in its core's cache, and goes on
  // with what others have left: where a core is slow, as one that other programs use, it does less
  const int64_t groups = std::clamp<int64_t>(tiles / kTilesTogether, threads, kMostGroups);
  std::array<std::atomic<bool>, kMostGroups> taken{};
  const auto take = [&](int64_t g) {
    if (!taken[g].exchange(true)) run(tiles * g / groups, tiles * (g + 1) / groups);
  };
  spread({threads, kValuesPerThread}, threads, [&](int64_t begin, int64_t) {
    const int64_t own = groups * (begin + 1) / threads;
    for (int64_t g = groups * begin / threads; g < own; ++g) take(g);
    for (int64_t g = groups - 1; g >= 0; --g) take(g);
  });
}

void run_move_jobs(const SlotMoves& params, int64_t available) {
  int64_t jobs = 0, bytes = 0;
  for (int64_t i = 0; i < params.n_ranges; ++i) {
    jobs = std::max(jobs, params.ranges[i].layers * params.ranges[i].tiles);
    bytes += params.ranges[i].bytes * params.n_moves;
  }
  spread({jobs, bytes / 4}, available,
         [&](int64_t begin, int64_t end) { move_slots(params, begin, end); });
}

}  // namespace futurefill
