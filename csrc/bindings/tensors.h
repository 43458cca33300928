// Checks, outputs and error sentences that all bindings share.
#ifndef MICRONET_BINDINGS_TENSORS_H_
#define MICRONET_BINDINGS_TENSORS_H_

#include <ATen/ATen.h>
#include <torch/csrc/utils/pybind.h>

#include <tuple>

#ifdef MICRONET_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

#include "include/core.h"

namespace micronet {

using at::Tensor;
using TensorPair = std::tuple<Tensor, Tensor>;
using TensorTriple = std::tuple<Tensor, Tensor, Tensor>;

// torch's own threads, so that torch.set_num_threads rules here too.
void run_on_torch_threads(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t),
                          void* context);

constexpr ParallelFor kParallel{run_on_torch_threads};

// Raises what a launcher's Status says.
void raise_unless_ok(int status);

DType check_floats(const Tensor& x);
void check_bytes(const Tensor& bytes, int64_t count);
void check_state(const Tensor& state, at::ScalarType dtype, int64_t numel);

// What a quantizer is made from; an empty range is none, others have `numel` floats.
Coding coding_of(const Tensor& range, int64_t levels, int64_t scheme, int64_t numel = 2);

// The floats of x [numel], null where x is empty.
const float* floats_or_null(const Tensor& x, int64_t numel);

// An output on the device of `like`. Large ones on the CPU come from the pool and return to it.
Tensor output(at::IntArrayRef sizes, at::IntArrayRef strides, const at::TensorOptions& options);

inline Tensor output_like(const Tensor& x) {
  return output(x.sizes(), x.strides(), x.options().requires_grad(false));
}

inline Tensor output_flat(const Tensor& x, int64_t numel, at::ScalarType dtype) {
  return output({numel}, {1}, x.options().dtype(dtype).requires_grad(false));
}

inline Tensor output_bits(const Tensor& x) {
  return output_flat(x, bytes_for(x.numel()), at::kByte);
}

inline const uint8_t* bytes_of(const Tensor& x) {
  return static_cast<const uint8_t*>(x.const_data_ptr());
}

inline uint8_t* bytes_of_output(const Tensor& x) {
  return static_cast<uint8_t*>(x.mutable_data_ptr());
}

inline float* floats_of_output(const Tensor& x) { return x.mutable_data_ptr<float>(); }

#ifdef MICRONET_CUDA
inline void* stream_of(const Tensor& x) {
  return c10::cuda::getCurrentCUDAStream(x.device().index()).stream();
}
#endif

// Calls on_cpu() or, on x's own device, on_cuda(stream), and raises what they report. The
// emulator's device, see tests/device, is served by the kernels for CUDA.
template <typename OnCpu, typename OnCuda>
void launch_for(const Tensor& x, const OnCpu& on_cpu, [[maybe_unused]] const OnCuda& on_cuda) {
#ifdef MICRONET_CUDA
  if (x.is_cuda()) {
    const c10::cuda::CUDAGuard guard(x.device());
    raise_unless_ok(on_cuda(stream_of(x)));
    return;
  }
#endif
#ifdef MICRONET_EMULATED_DEVICE
  if (x.is_privateuseone()) {
    raise_unless_ok(on_cuda(nullptr));
    return;
  }
#endif
  TORCH_CHECK(x.is_cpu(), "there is no kernel for ", x.device());
  raise_unless_ok(on_cpu());
}

}  // namespace micronet

#endif  // MICRONET_BINDINGS_TENSORS_H_
