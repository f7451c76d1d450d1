// Launches the apply step.
#include "apply_step.cuh"
#include "launch.cuh"
#include "launch.h"

namespace futurefill::cuda {

cudaError_t launch_apply_step(const ApplyParams& p, cudaStream_t stream) {
  cudaError_t result = cudaErrorInvalidValue;
  choose_apply(p, [&](auto io, auto vector) {
    result = launch(apply_step<IoOf<io>, vector>, apply_launch(p), apply_arguments(p), stream);
  });
  return result;
}

}  // namespace futurefill::cuda
