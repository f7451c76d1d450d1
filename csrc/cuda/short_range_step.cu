// Launches the short-range step.
#include "launch.cuh"
#include "launch.h"
#include "short_range_step.cuh"

namespace futurefill::cuda {

cudaError_t launch_short_range_step(const StepParams& p, cudaStream_t stream) {
  cudaError_t result = cudaErrorInvalidValue;
  choose_step(p, [&](auto io, auto rows, auto shared) {
    result = launch(short_range_step<IoOf<io>, rows, shared>, step_launch(p.shape),
                    step_arguments(p), stream);
  });
  return result;
}

}  // namespace futurefill::cuda
