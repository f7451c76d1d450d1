// The two operations cut into jobs for the worker threads.
#pragma once

#include "engine.h"

namespace futurefill {

void run_step_jobs(const StepParams& params);
void run_fill_jobs(const FillParams& params);

}  // namespace futurefill
