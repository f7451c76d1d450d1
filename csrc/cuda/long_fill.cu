// Launches the three passes of a long fill.
#include "launch.cuh"
#include "launch.h"
#include "long_fill.cuh"

namespace futurefill::cuda {

cudaError_t launch_long_fill(const LongFillParams& p, cudaStream_t stream) {
  Memory memory = kSmall;
  cudaError_t result = device_memory(memory);
  if (result != cudaSuccess) return result;
  const int64_t transform = p.fill.shape.transform;
  result = cudaErrorInvalidValue;
  choose_nodes(transform, [&](auto nodes) {
    result = launch(split_block<nodes>, outer_launch(p, nodes), outer_arguments(p), stream);
  });
  if (result != cudaSuccess) return result;
  choose_node(transform, memory, [&](auto config) {
    using Config = decltype(config);
    result =
        launch(transform_nodes<Config>, nodes_launch(p, Config::value), nodes_arguments(p), stream);
  });
  if (result != cudaSuccess) return result;
  choose_nodes(transform, [&](auto nodes) {
    result = launch(merge_block<nodes>, outer_launch(p, nodes), outer_arguments(p), stream);
  });
  return result;
}

}  // namespace futurefill::cuda
