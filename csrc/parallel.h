// The CPU operations spread over worker threads.
#pragma once

#include "cpu/engine.h"

namespace futurefill {

// Threads to use at most: torch.set_num_threads, or FUTUREFILL_NUM_THREADS where it is set.
// Throws std::runtime_error when that is not a number of at least 1.
int64_t thread_count();

void run_step_jobs(const StepParams& params);
void run_fill_jobs(const FillParams& params);
// one stage of jobs that lie side by side
void run_fill_stage(const SliceParams& params, int64_t stage, int64_t job_begin, int64_t job_end);
// jobs are tiles of channels
void run_conv_jobs(const ConvParams& params);
void run_dense_jobs(const DenseParams& params, int64_t panels);

}  // namespace futurefill
