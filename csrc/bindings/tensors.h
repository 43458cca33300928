// Checks, outputs and error sentences that all bindings share. Part of bindings.cpp.
#ifndef MICRONET_BINDINGS_TENSORS_H_
#define MICRONET_BINDINGS_TENSORS_H_

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/utils/pybind.h>

#include <string>
#include <tuple>
#include <vector>

#ifdef MICRONET_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

#include "../core.h"
#include "../cpu/buffer_pool.h"

#ifndef _OPENMP
#error "compile with -fopenmp: at::parallel_for is serial without it"
#endif

namespace micronet {
namespace {

using at::Tensor;
using TensorPair = std::tuple<Tensor, Tensor>;
using TensorTriple = std::tuple<Tensor, Tensor, Tensor>;

// torch's own threads, so that torch.set_num_threads rules here too.
void run_on_torch_threads(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t),
                          void* context) {
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { body(context, begin, end); });
}

constexpr ParallelFor kParallel{run_on_torch_threads};

void raise_unless_ok(int status) {
  switch (status) {
    case kOk:
      return;
    case kNoElements:
      throw pybind11::value_error("no elements have no range");
    case kNotANumber:
      throw pybind11::value_error("weights hold NaN, which has no magnitude to compare");
    case kBadCount:
      throw pybind11::value_error("the count is not the number of elements that are kept");
    case kBadCode:
      throw pybind11::value_error("a code is not below the number of levels");
    default:
      throw std::runtime_error("the CUDA runtime refused a kernel launch");
  }
}

Float float_of_tensor(const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return kFloat32;
    case at::kBFloat16:
      return kBFloat16;
    case at::kHalf:
      return kFloat16;
    default:
      TORCH_CHECK(false, "expected float32, bfloat16 or float16");
  }
}

Float check_floats(const Tensor& x) {
  TORCH_CHECK(x.is_non_overlapping_and_dense(), "expected a dense tensor");
  return float_of_tensor(x);
}

void check_bytes(const Tensor& bytes, int64_t count) {
  TORCH_CHECK(bytes.scalar_type() == at::kByte && bytes.is_contiguous() && bytes.numel() == count,
              "expected ", count, " bytes");
}

void check_state(const Tensor& state, at::ScalarType dtype, int64_t numel) {
  TORCH_CHECK(state.scalar_type() == dtype && state.numel() == numel && state.is_contiguous(),
              "expected a contiguous tensor of ", numel, " elements");
}

// An output on the device of `like`. Large ones on the CPU come from the pool and return to it.
Tensor output(at::IntArrayRef sizes, at::IntArrayRef strides, const at::TensorOptions& options) {
  const size_t bytes = static_cast<size_t>(c10::multiply_integers(sizes)) *
                       c10::elementSize(c10::typeMetaToScalarType(options.dtype()));
  if (!options.device().is_cpu() || bytes < BufferPool::kSmallest) {
    return at::empty_strided(sizes, strides, options);
  }
  void* buffer = BufferPool::shared().take(bytes);
  TORCH_CHECK(buffer != nullptr, "there is no memory for ", bytes, " bytes");
  return at::from_blob(
      buffer, sizes, strides, [bytes](void* p) { BufferPool::shared().give(p, bytes); }, options);
}

Tensor output_like(const Tensor& x) {
  return output(x.sizes(), x.strides(), x.options().requires_grad(false));
}

Tensor output_flat(const Tensor& x, int64_t numel, at::ScalarType dtype) {
  return output({numel}, {1}, x.options().dtype(dtype).requires_grad(false));
}

Tensor output_bits(const Tensor& x) { return output_flat(x, bytes_for(x.numel()), at::kByte); }

const uint8_t* bytes_of(const Tensor& x) { return static_cast<const uint8_t*>(x.const_data_ptr()); }

uint8_t* bytes_of_output(const Tensor& x) { return static_cast<uint8_t*>(x.mutable_data_ptr()); }

float* floats_of_output(const Tensor& x) { return x.mutable_data_ptr<float>(); }

#ifdef MICRONET_CUDA
void* stream_of(const Tensor& x) {
  return c10::cuda::getCurrentCUDAStream(x.device().index()).stream();
}
#endif

// Calls on_cpu() or, on x's own device, on_cuda(stream), and raises what they report.
template <typename OnCpu, typename OnCuda>
void launch_for(const Tensor& x, const OnCpu& on_cpu, [[maybe_unused]] const OnCuda& on_cuda) {
#ifdef MICRONET_CUDA
  if (x.is_cuda()) {
    const c10::cuda::CUDAGuard guard(x.device());
    raise_unless_ok(on_cuda(stream_of(x)));
    return;
  }
#endif
  TORCH_CHECK(x.is_cpu(), "there is no kernel for ", x.device());
  raise_unless_ok(on_cpu());
}

}  // namespace
}  // namespace micronet

#endif  // MICRONET_BINDINGS_TENSORS_H_
