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
  // Of the arguments of sums: the last of one code, the first of the other.
  float last_below = -kInfinity, first_from = kInfinity;
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

// Notes what codes arguments about a threshold have; false where one has another code than the
// threshold's, or there are too many to look at.
bool look_around(const SwishCode& code, const ChannelSums& channel, Threshold* threshold) {
  const ChannelSums::Range sums = channel.within(threshold->low, threshold->high);
  if (sums.last - sums.first > kMostAround) return false;
  for (double sum = sums.first; sum <= sums.last; sum += 1.0) {
    const float t = channel.argument_of(sum);
    if (t < threshold->low || t > threshold->high) continue;
    const int is = code(t);
    if (is == threshold->below) {
      threshold->last_below = std::max(threshold->last_below, t);
    } else if (is == threshold->from) {
      threshold->first_from = std::min(threshold->first_from, t);
    } else {
      return false;
    }
  }
  return true;
}

// Puts a threshold between the arguments of both its codes; false where there is no such place.
bool settle(Threshold* threshold) {
  const float below = threshold->last_below, from = threshold->first_from;
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

constexpr double kRounding = 0x1p-22;
// Sums that are floats; what double precision loses of those is far below the small margin. Of
// others the float next to them makes the argument.
constexpr int64_t kExact = int64_t{1} << 24;
constexpr double kSmallMargin = 0x1p-20;

}  // namespace

ChannelSums::ChannelSums(float scale, float shift, int64_t bound)
    : scale_(scale),
      shift_(shift),
      per_sum_(scale == 0.0f ? 0.0 : 1.0 / double{scale}),
      bound_(static_cast<double>(bound)),
      margin_(bound < kExact ? kSmallMargin : bound_ * 0x1p-24 + 1.0) {}

ChannelSums::Range ChannelSums::within(float low, float high) const {
  // Arguments are rounded: what is found at an end may come from a little beyond.
  double first = (low - std::fabs(low) * kRounding - shift_) * per_sum_;
  double last = (high + std::fabs(high) * kRounding - shift_) * per_sum_;
  if (scale_ < 0.0f) std::swap(first, last);
  return {std::ceil(std::max(first - margin_, -bound_)),
          std::floor(std::min(last + margin_, bound_))};
}

std::optional<CodeTable> swish_codes(const Quantizer& quantizer, const Arguments& arguments) {
  const SwishCode code{quantizer};
  std::vector<Threshold> thresholds;
  append(code, -FLT_MAX, kLeastSwishAt, &thresholds);
  append(code, kLeastSwishAt, FLT_MAX, &thresholds);
  if (thresholds.size() > CodeTable::kMost || !are_apart(thresholds)) return std::nullopt;
  for (size_t c = 0; c < arguments.scale.size(); ++c) {
    const ChannelSums channel(arguments.scale[c], arguments.shift[c], arguments.bounds[c]);
    for (Threshold& threshold : thresholds) {
      if (!look_around(code, channel, &threshold)) return std::nullopt;
    }
  }
  if (!std::all_of(thresholds.begin(), thresholds.end(),
                   [](Threshold& threshold) { return settle(&threshold); })) {
    return std::nullopt;
  }
  return table_of(thresholds, code(-FLT_MAX));
}

}  // namespace micronet::engine
