// The CPU operations spread over worker threads.
#pragma once

#include "cpu/engine.h"

namespace futurefill {

// Threads to use at most: torch.set_num_threads, or FUTUREFILL_NUM_THREADS where it is set.
// Throws std::runtime_error when that is not a number of at least 1.
int64_t thread_count();

// Threads, of those available, that a step of one layer and a fill of all layers are spread over.
int64_t step_threads(int64_t rows, int64_t tiles, int64_t lanes, int64_t block, int64_t available);
int64_t fill_threads(int64_t rows, int64_t layers, int64_t tiles, int64_t lanes, int64_t block,
                     int64_t available);

void run_step_jobs(const StepParams& params);
void run_fill_jobs(const FillParams& params);
// one stage of jobs that lie side by side
void run_fill_stage(const SliceParams& params, int64_t stage, int64_t job_begin, int64_t job_end);
// jobs are tiles of channels
void run_conv_jobs(const ConvParams& params);
void run_dense_jobs(const DenseParams& params, int64_t panels);

}  // namespace futurefill
