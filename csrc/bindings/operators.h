// The table of operators that the module offers; each <op>.cpp adds its own.
#ifndef MICRONET_BINDINGS_OPERATORS_H_
#define MICRONET_BINDINGS_OPERATORS_H_

#include <torch/csrc/utils/pybind.h>

#include <string>
#include <vector>

namespace micronet {

// Defines an operator and notes its name; other Python threads run while a kernel does.
struct Operators {
  pybind11::module_ module;
  std::vector<std::string> names;

  template <typename Function>
  void add(const char* name, Function* function) {
    module.def(name, function, pybind11::call_guard<pybind11::gil_scoped_release>());
    names.emplace_back(name);
  }
};

void add_activation_operators(Operators& operators);
void add_bits_operators(Operators& operators);
void add_block_operators(Operators& operators);
void add_conv_operators(Operators& operators);
void add_exact_operators(Operators& operators);
void add_weight_operators(Operators& operators);

// What the dispatcher's own kernels need of Python; see weight_lists.cpp.
void add_weight_lists(pybind11::module_& module);

}  // namespace micronet

#endif  // MICRONET_BINDINGS_OPERATORS_H_
