// Tensors to pointers, error codes to sentences. With its parts in bindings/, all that knows torch.
//
// The router in ops/ has checked dtypes, shapes, layouts and devices before a call comes here;
// what memory safety rests on is checked again.

#include "bindings/activation.h"
#include "bindings/bits.h"
#include "bindings/block.h"
#include "bindings/conv.h"
#include "bindings/exact.h"
#include "bindings/lists.h"
#include "bindings/weight.h"
#include "cpu/kernels.h"

namespace micronet {
namespace {

namespace py = pybind11;

// Defines an operator and notes its name; other Python threads run while a kernel does.
struct Operators {
  py::module_ module;
  std::vector<std::string> names;

  template <typename Function>
  void add(const char* name, Function* function) {
    module.def(name, function, py::call_guard<py::gil_scoped_release>());
    names.emplace_back(name);
  }
};

void add_operators(Operators& operators) {
  operators.add("update_range_", &update_range);
  operators.add("move_range_", &move_range);
  operators.add("fake_quant_per_tensor", &fake_quant_per_tensor);
  operators.add("fake_quant_per_tensor_observed", &fake_quant_per_tensor_observed);
  operators.add("fake_quant_per_tensor_backward", &select_by_bits);
  operators.add("quantize_per_tensor", &quantize_per_tensor);
  operators.add("dequantize_per_tensor", &dequantize_per_tensor);
  operators.add("fake_quant_per_channel", &fake_quant_per_channel);
  operators.add("fake_quant_weights", &fake_quant_weights);
  operators.add("quantize_per_channel", &quantize_per_channel);
  operators.add("mask_gradient", &select_by_bits);
  operators.add("mask_gradients", &mask_gradients);
  operators.add("fake_quant_learned_step", &fake_quant_learned_step);
  operators.add("fake_quant_learned_step_backward", &fake_quant_learned_step_backward);
  operators.add("pack_codes", &pack_codes);
  operators.add("unpack_codes", &unpack_codes);
  operators.add("pack_bits", &pack_bits);
  operators.add("unpack_bits", &unpack_bits);
  operators.add("count_bits", &count_bits);
  operators.add("compact_by_bits", &compact_by_bits);
  operators.add("expand_by_bits", &expand_by_bits);
  operators.add("count_nonzero", &count_nonzero);
  operators.add("count_nonzero_per_channel", &count_nonzero_per_channel);
  operators.add("smallest_magnitude_mask", &smallest_magnitude_mask);
  operators.add("quant_conv2d", &quant_conv2d);
  operators.add("quant_conv2d_values", &quant_conv2d_values);
  operators.add("channel_moments", &channel_moments);
  operators.add("block_extremes", &block_extremes);
  operators.add("block_codes", &block_codes);
  operators.add("block_values", &block_values);
  operators.add("block_means", &block_means);
  operators.add("block_gradient_sums", &block_gradient_sums);
  operators.add("block_gradient", &block_gradient);
  operators.add("float_conv2d", &float_conv2d);
  operators.add("linear_by_lanes", &linear_by_lanes);
  operators.add("block_gate_gradient", &block_gate_gradient);
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels* const* set = available_kernels(); *set != nullptr; ++set) {
    names.emplace_back((*set)->name);
  }
  return names;
}

void use_instruction_set(const std::string& name) {
  if (choose_kernels(name.c_str())) return;
  std::string choices;
  for (const std::string& one : instruction_sets()) choices += (choices.empty() ? "" : ", ") + one;
  throw py::value_error("there is no instruction set '" + name + "' here; there are " + choices);
}

// A copy past the caches, the ceiling that benchmarks compare with.
void copy_stream(const Tensor& from, const Tensor& to) {
  check_state(from, at::kFloat, from.numel());
  check_state(to, at::kFloat, from.numel());
  TORCH_CHECK(from.is_cpu() && to.is_cpu(), "expected tensors on the CPU");
  const float* source = from.const_data_ptr<float>();
  float* target = floats_of_output(to);
  TORCH_CHECK(reinterpret_cast<uintptr_t>(target) % 64 == 0, "expected an aligned target");
  constexpr int64_t kLine = 16;
  at::parallel_for(0, (from.numel() + kLine - 1) / kLine, 1 << 14, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kLine, last = std::min(end * kLine, from.numel());
    kernels().copy(source + first, last - first, target + first);
  });
}

}  // namespace
}  // namespace micronet

PYBIND11_MODULE(_C, module) {
  using micronet::BufferPool;
  micronet::Operators operators{module, {}};
  micronet::add_operators(operators);
  module.attr("OPERATORS") = operators.names;
#ifdef MICRONET_CUDA
  module.attr("DEVICES") = std::vector<std::string>{"cpu", "cuda"};
#else
  module.attr("DEVICES") = std::vector<std::string>{"cpu"};
#endif
  module.def("set_router", &micronet::set_router);
  module.def("dispatch_weights",
             [](const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& masks,
                const std::vector<int64_t>& levels, int64_t scheme) {
               const pybind11::gil_scoped_release no_gil;
               return micronet::dispatch_weights(weights, masks, levels, scheme);
             });
  module.def("serve_natively", &micronet::serve_natively);
  module.def("instruction_sets", &micronet::instruction_sets);
  module.def("instruction_set", [] { return std::string(micronet::kernels().name); });
  module.def("use_instruction_set", &micronet::use_instruction_set);
  module.def("copy_stream", &micronet::copy_stream);
  module.def("kept_buffer_bytes", [] { return BufferPool::shared().kept(); });
  module.def("set_skipping", [](std::optional<bool> always) {
    using micronet::Skipping;
    micronet::set_skipping(!always   ? Skipping::kByRule
                           : *always ? Skipping::kAlways
                                     : Skipping::kNever);
  });
  module.def("set_kept_buffer_limit", [](size_t bytes) { BufferPool::shared().set_limit(bytes); });
}
