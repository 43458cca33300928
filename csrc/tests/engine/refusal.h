// What a file is refused with.
#ifndef MICRONET_TESTS_ENGINE_REFUSAL_H_
#define MICRONET_TESTS_ENGINE_REFUSAL_H_

#include <string>

#include "engine/format/error.h"
#include "tests/check.h"

namespace micronet::engine {

// The sentence of a body that has to be refused, or nothing where it was not.
template <typename Body>
std::string refusal_of(const Body& body) {
  try {
    body();
  } catch (const Refused& refused) {
    return refused.what();
  }
  return "";
}

template <typename Body>
void check_refused(const std::string& part, const Body& body) {
  const std::string sentence = refusal_of(body);
  if (sentence.find(part) == sentence.npos) {
    std::fprintf(stderr, "wanted '%s', found '%s'\n", part.c_str(), sentence.c_str());
  }
  CHECK(!sentence.empty() && sentence.find(part) != sentence.npos);
}

}  // namespace micronet::engine

#endif  // MICRONET_TESTS_ENGINE_REFUSAL_H_
