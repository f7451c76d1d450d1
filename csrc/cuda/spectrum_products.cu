// Launches the spectrum products.
#include "launch.cuh"
#include "launch.h"
#include "spectrum_products.cuh"

namespace futurefill::cuda {

cudaError_t launch_spectrum_products(const ProductParams& p, cudaStream_t stream) {
  return launch(spectrum_products, products_launch(p), products_arguments(p), stream);
}

}  // namespace futurefill::cuda
