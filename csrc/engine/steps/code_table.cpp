// Thresholds of swish's codes, and their places in a table.
//
// Swish falls to one least value and rises from there, so codes change at few arguments. Between
// neighboring floats it is not in order, as it is rounded: around a threshold lie arguments whose
// codes go back and forth. They are so few that the sums of a network hardly ever give one; those
// that do are looked for, channel by channel, and the threshold is put where all of them are right.

#include "engine/steps/code_table.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace micronet::engine {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// More integers about a threshold than a channel of any use has.
constexpr double kMostAround = 64.0;

// The code of the definition.
struct SwishCode {
  Quantizer q;
  int operator()(float t) const { return static_cast<int>(quantize(swish(t), q) - q.code_min); }
};

// Floats in their order.
float nth_float(int64_t n) {
  const uint32_t word = static_cast<uint32_t>(n < 0 ? -n : n) | (n < 0 ? 0x80000000u : 0u);
  float x;
  std::memcpy(&x, &word, 4);
  return x;
}

int64_t number_of(float x) {
  uint32_t word;
  std::memcpy(&word, &x, 4);
  const int64_t magnitude = word & 0x7fffffffu;
  return word >> 31 ? -magnitude : magnitude;
}

// From `at` on the code is `from`, before it `below`. Codes go back and forth from `low` to `high`
// at most.
struct Threshold {
  float at;
  int below, from;
  float low, high;
};

Threshold threshold_at(float at, int below, int from) {
  // See kSwishSpacing and kSwishFloats.
  if (std::fabs(at - kLeastSwishAt) < kSwishFlat) {
    return {at, below, from, at - kSwishSpacing, at + kSwishSpacing};
  }
  const int64_t n = number_of(at);
  return {at, below, from, nth_float(n - kSwishFloats), nth_float(n + kSwishFloats)};
}

// Appends the thresholds between two arguments, of a function that is in order there.
void append(const SwishCode& code, float from, float to, std::vector<Threshold>* found) {
  int now = code(from);
  const int end = code(to), step = end > now ? 1 : -1;
  int64_t low = number_of(from);
  while (now != end) {
    // The first float with the next code, or one beyond it.
    int64_t high = number_of(to);
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      ((code(nth_float(middle)) - now) * step > 0 ? high : low) = middle;
    }
    found->push_back(threshold_at(nth_float(high), now, now + step));
    now += step, low = high - 1;
  }
}

// Whether floats around a threshold are none of another's, and are as dense as was tested.
bool are_apart(const std::vector<Threshold>& thresholds) {
  for (size_t i = 0; i < thresholds.size(); ++i) {
    if (std::fabs(thresholds[i].at) < kSwishDense) return false;
    if (i > 0 && !(thresholds[i - 1].high < thresholds[i].low)) return false;
  }
  return true;
}

// Puts a threshold between the arguments of both its codes; false where there is no such place.
bool settle(const SwishCode& code, const Arguments& arguments, Threshold* threshold) {
  float below = -kInfinity, from = kInfinity;  // the last of one code, the first of the other
  for (size_t c = 0; c < arguments.scale.size(); ++c) {
    const float scale = arguments.scale[c], shift = arguments.shift[c];
    double first = (double{threshold->low} - shift) / scale;
    double last = (double{threshold->high} - shift) / scale;
    if (scale < 0.0f) std::swap(first, last);
    if (scale == 0.0f) first = 0.0, last = 0.0;
    const double bound = static_cast<double>(arguments.bounds[c]);
    first = std::max(std::floor(first) - 1.0, -bound),
    last = std::min(std::ceil(last) + 1.0, bound);
    if (last - first > kMostAround) return false;
    for (double sum = first; sum <= last; sum += 1.0) {
      const float t = fmaf(static_cast<float>(sum), scale, shift);
      if (t < threshold->low || t > threshold->high) continue;
      const int is = code(t);
      if (is == threshold->below) {
        below = std::max(below, t);
      } else if (is == threshold->from) {
        from = std::min(from, t);
      } else {
        return false;
      }
    }
  }
  if (below >= from) return false;
  if (threshold->at <= below) threshold->at = std::nextafter(below, kInfinity);
  threshold->at = std::min(threshold->at, from);
  return true;
}

int place_of(const CodeTable& table, float t) {
  const float last = static_cast<float>(table.entries - 1);
  return static_cast<int>(
      std::nearbyint(clamp_keep_nan(fmaf(t, table.spread, table.offset), 0.0f, last)));
}

// Whether every entry has at most one threshold.
bool fill(const std::vector<Threshold>& thresholds, int code, CodeTable* table) {
  size_t next = 0;
  for (int i = 0; i < table->entries; ++i) {
    table->thresholds[i] = kInfinity;
    table->codes[i] = code + 256 * code;
    if (next == thresholds.size() || place_of(*table, thresholds[next].at) != i) continue;
    const Threshold& threshold = thresholds[next++];
    table->thresholds[i] = threshold.at;
    table->codes[i] = threshold.below + 256 * threshold.from;
    code = threshold.from;
  }
  return next == thresholds.size();
}

// Entries as wide as the nearest thresholds allow; the first and the last entry have all beyond.
std::optional<CodeTable> table_of(const std::vector<Threshold>& thresholds, int first_code) {
  const size_t count = thresholds.size();
  float gap = kInfinity;
  for (size_t i = 2; i + 1 < count; ++i) {
    gap = std::min(gap, thresholds[i].at - thresholds[i - 1].at);
  }
  CodeTable table{};
  for (const int entries : {32, 64}) {
    table.entries = entries;
    // A little narrower than the gap, which need not be a multiple of anything.
    for (const float share : {0.999f, 0.9f, 0.8f, 0.7f, 0.6f, 0.5f}) {
      table.spread = gap < kInfinity ? 1.0f / (gap * share) : 1.0f;
      const float start = count < 2 ? 0.0f : thresholds[1].at;
      table.offset = 1.0f - start * table.spread;
      if (fill(thresholds, first_code, &table)) return table;
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<CodeTable> swish_codes(const Quantizer& quantizer, const Arguments& arguments) {
  const SwishCode code{quantizer};
  std::vector<Threshold> thresholds;
  append(code, -FLT_MAX, kLeastSwishAt, &thresholds);
  append(code, kLeastSwishAt, FLT_MAX, &thresholds);
  if (thresholds.size() > CodeTable::kMost || !are_apart(thresholds)) return std::nullopt;
  for (Threshold& threshold : thresholds) {
    if (!settle(code, arguments, &threshold)) return std::nullopt;
  }
  return table_of(thresholds, code(-FLT_MAX));
}

}  // namespace micronet::engine
