// Launches the history.
#include "history.cuh"
#include "launch.cuh"
#include "launch.h"

namespace futurefill::cuda {

cudaError_t launch_history(const HistoryParams& p, cudaStream_t stream) {
  cudaError_t result = cudaErrorInvalidValue;
  choose_history(p, [&](auto rows, auto vectors, auto unroll, auto shared) {
    result = launch(history<rows, vectors, unroll, shared>, history_launch(p), history_arguments(p),
                    stream);
  });
  return result;
}

}  // namespace futurefill::cuda
