// The table of operators that the module offers; each <op>.cpp adds its own.
#ifndef MICRONET_BINDINGS_OPERATORS_H_
#define MICRONET_BINDINGS_OPERATORS_H_

#include <torch/csrc/utils/pybind.h>

#include <string>
#include <vector>

namespace micronet {

// Defines operators and notes their names; other Python threads run while a kernel does.
struct Operators {
  pybind11::module_ module;
  std::vector<std::string> names;
  std::vector<std::string> on_cpu_alone;  // of the names

  // As many functions as there are names, which stand with ", " between them.
  template <typename Function, typename... Others>
  void add(const std::string& all, Function* function, Others*... others) {
    const size_t end = all.find(", ");
    names.push_back(all.substr(0, end));
    module.def(names.back().c_str(), function,
               pybind11::call_guard<pybind11::gil_scoped_release>());
    if constexpr (sizeof...(others) > 0) add(all.substr(end + 2), others...);
  }
};

// Adds functions under their own names.
#define ADD_OPERATORS(operators, ...) (operators).add(#__VA_ARGS__, __VA_ARGS__)

void add_activation_operators(Operators& operators);
void add_bits_operators(Operators& operators);
void add_block_operators(Operators& operators);
void add_conv_operators(Operators& operators);
void add_depthwise_gradient_operators(Operators& operators);
void add_exact_operators(Operators& operators);
void add_norm_operators(Operators& operators);
void add_weight_operators(Operators& operators);

// What the dispatcher's own kernels need of Python; see weight_lists.cpp.
void add_weight_lists(pybind11::module_& module);

}  // namespace micronet

#endif  // MICRONET_BINDINGS_OPERATORS_H_
