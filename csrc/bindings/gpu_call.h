// What a call on a GPU needs besides its kernel: the current stream and device, tensors that are
// there, errors with the op's name. Stable ABI only, and no CUDA header of torch.
//
// What a CPU build of torch lacks is looked up when a CUDA tensor first arrives, so one binary
// loads in both builds.
#pragma once

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <torch/csrc/stable/library.h>

#include <string>

#include "bindings/tensors.h"
#include "cuda/launch.h"

namespace futurefill {
namespace {

constexpr const char* kArchitectures = FUTUREFILL_CUDA_ARCHITECTURES;

using GetStream = AOTITorchError (*)(int32_t, void**);

GetStream find_get_stream() {
  void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  void* symbol = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
  STD_TORCH_CHECK(symbol, "this torch has no CUDA: libtorch_cuda.so ",
                  library ? "lacks aoti_torch_get_current_cuda_stream" : "is not loaded");
  return reinterpret_cast<GetStream>(symbol);
}

cudaStream_t current_stream(int32_t device) {
  static const GetStream get_stream = find_get_stream();
  void* stream;
  TORCH_ERROR_CODE_CHECK(get_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

// Throws with the op, the shape of its main tensor and what the binary has.
void check_cuda(cudaError_t error, const char* op, const View& tensor, int32_t device) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // it is reported here and belongs to no later call
  std::string hint;
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction ||
      error == cudaErrorUnsupportedPtxVersion) {
    int major = 0, minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    hint = "; the device is sm_" + std::to_string(major) + std::to_string(minor) +
           ", the binary has " + kArchitectures;
  }
  STD_TORCH_CHECK(false, op, " of ", tensor.name, " ", shape_text(tensor), " on cuda:", device,
                  " failed: ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ")", hint);
}

// Makes a device current for its lifetime.
class DeviceGuard {
 public:
  DeviceGuard(int32_t device, const char* op, const View& tensor) {
    check_cuda(cudaGetDevice(&previous_), op, tensor, device);
    if (previous_ != device) {
      check_cuda(cudaSetDevice(device), op, tensor, device);
      changed_ = true;
    }
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

int32_t device_of(const Tensor& t) {
  int32_t index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(t.get(), &index));
  return index;
}

// A tensor of the call: on the same GPU as the first.
View on_device(const char* name, const Tensor& t, int32_t device) {
  int32_t type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &type));
  STD_TORCH_CHECK(type == aoti_torch_device_type_cuda() && device_of(t) == device, "expected ",
                  name, " on cuda:", device, " like the others");
  return View(name, t);
}

void check_float32(const View& v) {
  STD_TORCH_CHECK(v.dtype == aoti_torch_dtype_float32(), "expected ", v.name, " of dtype float32");
}

cuda::IoType io_of(const View& v) {
  switch (scalar_of(v)) {
    case Scalar::kFloat32:
      return cuda::IoType::kFloat32;
    case Scalar::kBFloat16:
      return cuda::IoType::kBFloat16;
    case Scalar::kFloat16:
      return cuda::IoType::kFloat16;
    default:
      STD_TORCH_CHECK(false, "expected ", v.name, " of dtype float32, bfloat16 or float16");
  }
}

}  // namespace
}  // namespace futurefill
