// Checks, outputs and error sentences that all bindings share.

#include "bindings/tensors.h"

#include <ATen/Parallel.h>

#include "cpu/buffer_pool.h"

#ifndef _OPENMP
#error "compile with -fopenmp: at::parallel_for is serial without it"
#endif

namespace micronet {

void run_on_torch_threads(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t),
                          void* context) {
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { body(context, begin, end); });
}

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

static DType dtype_of(const Tensor& x) {
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

DType check_floats(const Tensor& x) {
  TORCH_CHECK(x.is_non_overlapping_and_dense(), "expected a dense tensor");
  return dtype_of(x);
}

void check_bytes(const Tensor& bytes, int64_t count) {
  TORCH_CHECK(bytes.scalar_type() == at::kByte && bytes.is_contiguous() && bytes.numel() == count,
              "expected ", count, " bytes");
}

void check_state(const Tensor& state, at::ScalarType dtype, int64_t numel) {
  TORCH_CHECK(state.scalar_type() == dtype && state.numel() == numel && state.is_contiguous(),
              "expected a contiguous tensor of ", numel, " elements");
}

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

Coding coding_of(const Tensor& range, int64_t levels, int64_t scheme, int64_t numel) {
  TORCH_CHECK(levels >= 2 && levels <= kMostLevels, "expected levels that fit codes");
  TORCH_CHECK(scheme >= kAffine && scheme <= kLearned, "expected a scheme");
  return {floats_or_null(range, numel), static_cast<int>(levels), static_cast<int>(scheme)};
}

const float* floats_or_null(const Tensor& x, int64_t numel) {
  if (x.numel() == 0) return nullptr;
  check_state(x, at::kFloat, numel);
  return x.const_data_ptr<float>();
}

}  // namespace micronet
