// Tensors to pointers, error codes to sentences. The one file that includes torch.
//
// The router in ops.py has checked dtypes, shapes, layouts and devices before a call comes here;
// what memory safety rests on is checked again.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/utils/pybind.h>

#include <map>
#include <string>
#include <tuple>
#include <vector>

#ifdef MICRONET_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

#include "core.h"

#ifndef _OPENMP
#error "compile with -fopenmp: at::parallel_for is serial without it"
#endif

namespace {

using at::Tensor;

// torch's own threads, so that torch.set_num_threads rules here too.
void run_on_torch_threads(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t),
                          void* context) {
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { body(context, begin, end); });
}

constexpr micronet::ParallelFor kParallel{run_on_torch_threads};

void raise_unless_ok(int status) {
  switch (status) {
    case micronet::kOk:
      return;
    case micronet::kNoElements:
      throw pybind11::value_error("no elements have no range");
    case micronet::kNotANumber:
      throw pybind11::value_error("weights hold NaN, which has no magnitude to compare");
    case micronet::kBadCount:
      throw pybind11::value_error("k lies outside 0 to the number of weights");
    default:
      throw std::runtime_error("the CUDA runtime refused a kernel launch");
  }
}

void check_floats(const Tensor& x) {
  TORCH_CHECK(x.scalar_type() == at::kFloat && x.is_non_overlapping_and_dense(),
              "expected a dense float32 tensor");
}

void check_bytes(const Tensor& bits, int64_t numel) {
  TORCH_CHECK(bits.scalar_type() == at::kByte && bits.is_contiguous() &&
                  bits.numel() == micronet::bytes_for(numel),
              "expected ", micronet::bytes_for(numel), " bytes of packed bits");
}

void check_state(const Tensor& state, at::ScalarType dtype, int64_t numel) {
  TORCH_CHECK(state.scalar_type() == dtype && state.numel() == numel && state.is_contiguous(),
              "expected a contiguous tensor of ", numel, " elements");
}

Tensor empty_bits(const Tensor& x) {
  return at::empty({micronet::bytes_for(x.numel())}, x.options().dtype(at::kByte));
}

#ifdef MICRONET_CUDA
void* stream_of(const Tensor& x) {
  return c10::cuda::getCurrentCUDAStream(x.device().index()).stream();
}
#endif

void update_range(const Tensor& x, const Tensor& ema, const Tensor& range, const Tensor& step,
                  double decay) {
  check_floats(x);
  check_state(ema, at::kFloat, 2);
  check_state(range, at::kFloat, 2);
  check_state(step, at::kLong, 1);
  const float d = static_cast<float>(decay);
  const float* in = x.const_data_ptr<float>();
  float* averages = ema.mutable_data_ptr<float>();
  float* corrected = range.mutable_data_ptr<float>();
  int64_t* count = step.mutable_data_ptr<int64_t>();
  // Memory is written behind autograd's back; it has to know that older views are stale.
  for (const Tensor* state : {&ema, &range, &step}) state->unsafeGetTensorImpl()->bump_version();
#ifdef MICRONET_CUDA
  if (x.is_cuda()) {
    const c10::cuda::CUDAGuard guard(x.device());
    const Tensor workspace = at::empty({micronet::kRangeWorkspace}, x.options());
    raise_unless_ok(micronet::update_range_cuda(in, x.numel(), d, averages, corrected, count,
                                                workspace.mutable_data_ptr<float>(), stream_of(x)));
    return;
  }
#endif
  raise_unless_ok(
      micronet::update_range_cpu(in, x.numel(), d, averages, corrected, count, kParallel));
}

std::tuple<Tensor, Tensor> fake_quant_per_tensor(const Tensor& x, const Tensor& range,
                                                 int64_t levels, int64_t scheme) {
  check_floats(x);
  check_state(range, at::kFloat, 2);
  const Tensor y = at::empty_like(x), inside = empty_bits(x);
  const float* in = x.const_data_ptr<float>();
  const float* ends = range.const_data_ptr<float>();
  float* out = y.mutable_data_ptr<float>();
  uint8_t* bits = inside.mutable_data_ptr<uint8_t>();
  const int l = static_cast<int>(levels), s = static_cast<int>(scheme);
#ifdef MICRONET_CUDA
  if (x.is_cuda()) {
    const c10::cuda::CUDAGuard guard(x.device());
    raise_unless_ok(
        micronet::fake_quant_per_tensor_cuda(in, x.numel(), ends, l, s, out, bits, stream_of(x)));
    return {y, inside};
  }
#endif
  raise_unless_ok(
      micronet::fake_quant_per_tensor_cpu(in, x.numel(), ends, l, s, out, bits, kParallel));
  return {y, inside};
}

Tensor select_by_bits(const Tensor& values, const Tensor& bits) {
  check_floats(values);
  check_bytes(bits, values.numel());
  const Tensor out = at::empty_like(values);
  const float* in = values.const_data_ptr<float>();
  const uint8_t* b = bits.const_data_ptr<uint8_t>();
  float* o = out.mutable_data_ptr<float>();
#ifdef MICRONET_CUDA
  if (values.is_cuda()) {
    const c10::cuda::CUDAGuard guard(values.device());
    raise_unless_ok(micronet::select_by_bits_cuda(in, b, values.numel(), o, stream_of(values)));
    return out;
  }
#endif
  raise_unless_ok(micronet::select_by_bits_cpu(in, b, values.numel(), o, kParallel));
  return out;
}

// What the two weight operators have in common: the channels of w and the mask, or null for none.
struct Channels {
  int64_t count, each;
  const float* w;
  const uint8_t* mask;
  Tensor scale, zero_point;

  Channels(const Tensor& weights, const Tensor& bits)
      : count(weights.dim() > 0 ? weights.size(0) : 0),
        each(count > 0 ? weights.numel() / count : 0),
        w(weights.const_data_ptr<float>()),
        mask(bits.numel() > 0 ? bits.const_data_ptr<uint8_t>() : nullptr),
        scale(at::empty({count}, weights.options())),
        zero_point(at::empty({count}, weights.options())) {
    check_floats(weights);
    TORCH_CHECK(weights.is_contiguous(), "expected contiguous weights");
    if (bits.numel() > 0) check_bytes(bits, weights.numel());
  }
};

std::tuple<Tensor, Tensor, Tensor> fake_quant_per_channel(const Tensor& w, const Tensor& mask,
                                                          int64_t levels, int64_t scheme) {
  const Channels c(w, mask);
  const Tensor w_hat = at::empty_like(w);
  raise_unless_ok(micronet::fake_quant_per_channel_cpu(
      c.w, c.mask, c.count, c.each, static_cast<int>(levels), static_cast<int>(scheme),
      w_hat.mutable_data_ptr<float>(), c.scale.mutable_data_ptr<float>(),
      c.zero_point.mutable_data_ptr<float>(), kParallel));
  return {w_hat, c.scale, c.zero_point};
}

std::tuple<Tensor, Tensor, Tensor> quantize_per_channel(const Tensor& w, const Tensor& mask,
                                                        int64_t levels, int64_t scheme) {
  const Channels c(w, mask);
  const bool is_signed = scheme == micronet::kDistillerSymmetric;
  const Tensor codes = at::empty_like(w, w.options().dtype(is_signed ? at::kChar : at::kByte));
  const Tensor workspace = at::empty({c.mask != nullptr ? w.numel() : 0}, w.options());
  raise_unless_ok(micronet::quantize_per_channel_cpu(
      c.w, c.mask, c.count, c.each, static_cast<int>(levels), static_cast<int>(scheme),
      workspace.mutable_data_ptr<float>(), static_cast<uint8_t*>(codes.mutable_data_ptr()),
      c.scale.mutable_data_ptr<float>(), c.zero_point.mutable_data_ptr<float>(), kParallel));
  return {codes, c.scale, c.zero_point};
}

Tensor smallest_magnitude_mask(const Tensor& w, int64_t k) {
  check_floats(w);
  const Tensor mask = empty_bits(w);
  raise_unless_ok(micronet::smallest_magnitude_mask_cpu(w.const_data_ptr<float>(), w.numel(), k,
                                                        mask.mutable_data_ptr<uint8_t>()));
  return mask;
}

Tensor pack_bits(const Tensor& flags) {
  check_state(flags, at::kBool, flags.numel());
  const Tensor bits = empty_bits(flags);
  raise_unless_ok(micronet::pack_bits_cpu(static_cast<const uint8_t*>(flags.const_data_ptr()),
                                          flags.numel(), bits.mutable_data_ptr<uint8_t>(),
                                          kParallel));
  return bits;
}

Tensor unpack_bits(const Tensor& bits, int64_t numel) {
  check_bytes(bits, numel);
  const Tensor flags = at::empty({numel}, bits.options().dtype(at::kBool));
  raise_unless_ok(micronet::unpack_bits_cpu(bits.const_data_ptr<uint8_t>(), numel,
                                            static_cast<uint8_t*>(flags.mutable_data_ptr()),
                                            kParallel));
  return flags;
}

Tensor counts_of(const Tensor& w, int64_t channels) {
  check_floats(w);
  const Tensor counts = at::empty({channels}, w.options().dtype(at::kLong));
  const int64_t each = channels > 0 ? w.numel() / channels : 0;
  raise_unless_ok(micronet::count_nonzero_cpu(w.const_data_ptr<float>(), channels, each,
                                              counts.mutable_data_ptr<int64_t>(), kParallel));
  return counts;
}

Tensor count_nonzero(const Tensor& w) { return counts_of(w, 1).reshape({}); }

Tensor count_nonzero_per_channel(const Tensor& w) { return counts_of(w, w.size(0)); }

// Device type -> operators compiled for it.
std::map<std::string, std::vector<std::string>> kernels() {
  std::map<std::string, std::vector<std::string>> table;
  table["cpu"] = {"update_range_",
                  "fake_quant_per_tensor",
                  "fake_quant_per_tensor_backward",
                  "fake_quant_per_channel",
                  "quantize_per_channel",
                  "mask_gradient",
                  "smallest_magnitude_mask",
                  "pack_bits",
                  "unpack_bits",
                  "count_nonzero",
                  "count_nonzero_per_channel"};
#ifdef MICRONET_CUDA
  table["cuda"] = {"update_range_", "fake_quant_per_tensor", "fake_quant_per_tensor_backward",
                   "mask_gradient"};
#endif
  return table;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  // Other Python threads run while a kernel does.
  using Released = pybind11::call_guard<pybind11::gil_scoped_release>;
  module.def("kernels", &kernels);
  module.def("update_range_", &update_range, Released());
  module.def("fake_quant_per_tensor", &fake_quant_per_tensor, Released());
  module.def("fake_quant_per_tensor_backward", &select_by_bits, Released());
  module.def("mask_gradient", &select_by_bits, Released());
  module.def("fake_quant_per_channel", &fake_quant_per_channel, Released());
  module.def("quantize_per_channel", &quantize_per_channel, Released());
  module.def("smallest_magnitude_mask", &smallest_magnitude_mask, Released());
  module.def("pack_bits", &pack_bits, Released());
  module.def("unpack_bits", &unpack_bits, Released());
  module.def("count_nonzero", &count_nonzero, Released());
  module.def("count_nonzero_per_channel", &count_nonzero_per_channel, Released());
}
