// The instruction set that a name or the environment asks for.
#ifndef MICRONET_CPU_CHOICE_H_
#define MICRONET_CPU_CHOICE_H_

#include <string>

namespace micronet {

// Uses the instruction set of that name from now on. Returns nothing, or where this machine has
// none of that name a sentence that says which it has; then nothing changes.
std::string choose_by_name(const std::string& name);

// As above, by the name in the variable MICRONET_CPU; does nothing where it is not set or empty.
std::string choose_by_environment();

}  // namespace micronet

#endif  // MICRONET_CPU_CHOICE_H_
