// The one home of what MICRONET_CPU means.

#include "cpu/choice.h"

#include <cstdlib>

#include "cpu/kernels.h"

namespace micronet {

std::string choose_by_name(const std::string& name) {
  if (choose_kernels(name.c_str())) return "";
  std::string choices;
  for (const Kernels* const* set = available_kernels(); *set != nullptr; ++set) {
    choices += (choices.empty() ? "" : ", ") + std::string((*set)->name);
  }
  return "there is no instruction set '" + name + "' here; there are " + choices;
}

std::string choose_by_environment() {
  const char* name = std::getenv("MICRONET_CPU");
  if (name == nullptr || *name == '\0') return "";
  const std::string problem = choose_by_name(name);
  return problem.empty() ? "" : "MICRONET_CPU: " + problem;
}

}  // namespace micronet
