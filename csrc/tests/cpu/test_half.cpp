// The 16-bit types: every value widened and narrowed back, and rounding to the nearest, to even.

#include <cmath>

#include "tests/check.h"

namespace micronet {
namespace {

template <typename Half>
void every_value_comes_back() {
  for (uint32_t word = 0; word < 65536; ++word) {
    const Half half{static_cast<uint16_t>(word)};
    const float v = widen(half);
    Half again;
    narrow(v, &again);
    CHECK(v != v || again.word == half.word);
  }
}

// Between two neighbors: nearer ones win, and of halves the even one.
template <typename Half>
void halves_go_to_even(uint16_t largest) {
  for (uint16_t word = 0; word < largest; ++word) {
    const float low = widen(Half{word}), high = widen(Half{static_cast<uint16_t>(word + 1)});
    const float middle = low + (high - low) / 2.0f;
    Half below, at, above;
    narrow(std::nextafterf(middle, low), &below);
    narrow(middle, &at);
    narrow(std::nextafterf(middle, high), &above);
    CHECK(below.word == word && above.word == word + 1);
    CHECK(at.word == word + (word & 1));
  }
}

}  // namespace

void run_tests(std::mt19937&) {
  every_value_comes_back<BFloat16>();
  every_value_comes_back<Float16>();
  halves_go_to_even<BFloat16>(0x7f7f);
  halves_go_to_even<Float16>(0x7bff);
}

}  // namespace micronet
