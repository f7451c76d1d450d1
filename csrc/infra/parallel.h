// The CPU operations spread over worker threads. No torch: callers say how many there may be.
#pragma once

#include <functional>

#include "cpu/engine.h"
#include "infra/move_slots.h"

namespace futurefill {

// Threads, of those available, that a step of one layer and a fill of all layers are spread over.
int64_t step_threads(int64_t rows, int64_t tiles, int64_t lanes, int64_t block, int64_t available);
int64_t fill_threads(int64_t rows, int64_t layers, int64_t tiles, int64_t lanes, int64_t block,
                     int64_t available);

// The calls use at most `available` threads.
void run_step_jobs(const StepParams& params, int64_t available);
void run_fill_jobs(const FillParams& params, int64_t available);
// one stage of jobs that lie side by side
void run_fill_stage(const StageParams& params, int64_t stage, int64_t job_begin, int64_t job_end,
                    int64_t available);
// jobs are tiles of channels
void run_conv_jobs(const ConvParams& params, int64_t available);
void run_spectrum_jobs(const SpectrumParams& params, int64_t available);
void run_prompt_jobs(const PromptParams& params, int64_t available);
void run_dense_jobs(const DenseParams& params, int64_t panels, int64_t available);
// run(begin, end) over tiles that go their ways alone, of `values` to work on each
void run_tiles_apart(int64_t tiles, int64_t values, int64_t available,
                     const std::function<void(int64_t, int64_t)>& run);
void run_move_jobs(const SlotMoves& params, int64_t available);

}  // namespace futurefill
