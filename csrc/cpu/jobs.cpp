#include "jobs.h"

namespace futurefill {

void run_step_jobs(const StepParams& params) { engine().short_range_step(params, 0, params.tiles); }

void run_fill_jobs(const FillParams& params) {
  engine().future_fill(params, 0, params.layers * params.tiles);
}

}  // namespace futurefill
