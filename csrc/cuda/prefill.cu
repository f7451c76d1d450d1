// Launches the two kernels around a prompt's transforms.
#include "launch.cuh"
#include "launch.h"
#include "prefill.cuh"

namespace futurefill::cuda {

cudaError_t launch_prefill_inputs(const InputsParams& p, cudaStream_t stream) {
  cudaError_t result = cudaErrorInvalidValue;
  choose_io(p.io, [&](auto io) {
    result = launch(prefill_inputs<IoOf<io>>, inputs_launch(p.shape), inputs_arguments(p), stream);
  });
  return result;
}

cudaError_t launch_prefill_outputs(const OutputsParams& p, cudaStream_t stream) {
  cudaError_t result = cudaErrorInvalidValue;
  choose_io(p.io, [&](auto io) {
    result = launch(prefill_outputs<IoOf<io>>, outputs_launch(p), outputs_arguments(p), stream);
  });
  return result;
}

}  // namespace futurefill::cuda
