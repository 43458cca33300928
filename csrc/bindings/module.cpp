// The Python module. bindings/ is all that knows torch: tensors to pointers, error codes to
// sentences.
//
// The router in ops/ has checked dtypes, shapes, layouts and devices before a call comes here;
// what memory safety rests on is checked again.

#include <ATen/Parallel.h>

#include <algorithm>
#include <optional>

#include "bindings/operators.h"
#include "bindings/tensors.h"
#include "cpu/buffer_pool.h"
#include "cpu/choice.h"
#include "cpu/kernels.h"
#include "include/conv.h"

namespace micronet {
namespace {

namespace py = pybind11;

void add_operators(Operators& operators) {
  add_activation_operators(operators);
  add_bits_operators(operators);
  add_block_operators(operators);
  add_conv_operators(operators);
  add_depthwise_gradient_operators(operators);
  add_exact_operators(operators);
  add_norm_operators(operators);
  add_weight_operators(operators);
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels* const* set = available_kernels(); *set != nullptr; ++set) {
    names.emplace_back((*set)->name);
  }
  return names;
}

void require_none(const std::string& problem) {
  if (!problem.empty()) throw py::value_error(problem);
}

void use_instruction_set(const std::string& name) { require_none(choose_by_name(name)); }

void obey_environment() { require_none(choose_by_environment()); }

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
  micronet::Operators operators{module, {}, {}};
  micronet::add_operators(operators);
  module.attr("OPERATORS") = operators.names;
  module.attr("ON_CPU_ALONE") = operators.on_cpu_alone;
  std::vector<std::string> devices{"cpu"};
#ifdef MICRONET_CUDA
  devices.emplace_back("cuda");
#endif
#ifdef MICRONET_EMULATED_DEVICE
  devices.emplace_back("emulated");
#endif
  module.attr("DEVICES") = devices;
  micronet::add_weight_lists(module);
  module.def("instruction_sets", &micronet::instruction_sets);
  module.def("instruction_set", [] { return std::string(micronet::kernels().name); });
  module.def("use_instruction_set", &micronet::use_instruction_set);
  module.def("obey_environment", &micronet::obey_environment);
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
