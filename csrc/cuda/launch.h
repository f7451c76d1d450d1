// Launchers of the CUDA operations. No torch, no kernels.
#pragma once

#include <cuda_runtime_api.h>

#include "launch_shape.h"
#include "params.h"

namespace futurefill::cuda {

// Asynchronous on the stream; the error is that of the launch.
cudaError_t launch_future_fill(const FillParams& params, cudaStream_t stream);
cudaError_t launch_early_fill(const FillParams& params, cudaStream_t stream);
// Three kernels.
cudaError_t launch_long_fill(const LongFillParams& params, cudaStream_t stream);
cudaError_t launch_history(const HistoryParams& params, cudaStream_t stream);
cudaError_t launch_apply_step(const ApplyParams& params, cudaStream_t stream);
cudaError_t launch_prefill_inputs(const InputsParams& params, cudaStream_t stream);
cudaError_t launch_prefill_outputs(const OutputsParams& params, cudaStream_t stream);

}  // namespace futurefill::cuda
