// How a file is refused: one sentence, which the C API hands on as text.
#ifndef MICRONET_ENGINE_FORMAT_ERROR_H_
#define MICRONET_ENGINE_FORMAT_ERROR_H_

#include <stdexcept>
#include <string>

namespace micronet::engine {

struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] inline void refuse(const std::string& sentence) { throw Refused(sentence); }

inline void require(bool holds, const std::string& sentence) {
  if (!holds) refuse(sentence);
}

}  // namespace micronet::engine

#endif  // MICRONET_ENGINE_FORMAT_ERROR_H_
