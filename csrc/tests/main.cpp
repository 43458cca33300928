// Runs the tests of a program. Prints its seed, so that a failure can be repeated by giving it as
// the first argument.

#include "tests/check.h"

int main(int argc, char** argv) {
  const unsigned seed =
      argc > 1 ? static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10)) : std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  micronet::run_tests(random);
}
