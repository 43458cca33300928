// Layers of random small networks, with their tensors.
#ifndef MICRONET_TESTS_ENGINE_RANDOM_LAYERS_H_
#define MICRONET_TESTS_ENGINE_RANDOM_LAYERS_H_

#include <initializer_list>
#include <string>
#include <vector>

#include "engine/format/document.h"
#include "include/core.h"
#include "tests/engine/sample.h"

namespace micronet::engine {

// Random choices.
struct Draw {
  std::mt19937& random;

  int64_t between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random() % static_cast<uint64_t>(most - least + 1));
  }
  bool once_in(unsigned times) { return random() % times == 0; }
  template <typename T>
  T of(std::initializer_list<T> choices) {
    return choices.begin()[random() % choices.size()];
  }
};

inline std::string text_of_all(const Sizes& numbers) {
  std::string text = "[";
  for (const int64_t number : numbers) {
    if (text.size() > 1) text += ",";
    text += std::to_string(number);
  }
  text += "]";
  return text;
}

class RandomLayers {
 public:
  RandomLayers(Draw* draw, Sample* sample) : draw_(*draw), sample_(*sample) {}

  // What the document says of them.
  const std::string& text() const { return text_; }

  int some_levels() { return draw_.of({2, 3, 4, 5, 7, 15, 16, 17, 100, 128, 129, 255, 256}); }

  void zero_points(const std::string& name, int64_t count, int levels) {
    sample_.add_codes(name, random_codes(draw_.random, static_cast<size_t>(count), levels), levels,
                      1, code_bits(levels));
  }

  // A layer with its tensors.
  void add(const std::string& name, const Sizes& shape, const std::string& sums,
           const std::string& geometry) {
    int64_t depth = 1, area = 1;
    for (size_t i = 1; i < shape.size(); ++i) (i == 1 ? depth : area) *= shape[i];
    depth *= area;
    std::string text = "\"shape\":" + text_of_all(shape) + ",\"sums\":\"" + sums + "\"" + geometry;
    const int64_t values = layout(name, shape[0], depth, area, &text);
    const bool has_codes = sums != "float" || draw_.once_in(2);
    if (has_codes) {
      codes(name, shape[0], values, &text);
    } else {
      sample_.add_floats(name + ".weight", normals(draw_.random, values));
    }
    if (draw_.once_in(2)) {
      text += ",\"bias\":true";
      sample_.add_floats(name + ".bias", normals(draw_.random, shape[0]));
    }
    if (sums == "float" && shape.size() == 4 && draw_.once_in(2)) {
      text += ",\"norm_scale\":true";
      sample_.add_floats(name + ".norm_scale",
                         random_scales(draw_.random, static_cast<size_t>(shape[0])));
    }
    text_ += (text_.empty() ? "\"" : ",\"") + name + "\":{" + text + "}";
  }

 private:
  void codes(const std::string& name, int64_t outputs, int64_t values, std::string* text) {
    const int levels = some_levels();
    const CodeGroup tight = code_group(levels);
    const CodeGroup packing = draw_.once_in(2) ? tight : CodeGroup{1, code_bits(levels)};
    *text += ",\"levels\":" + std::to_string(levels) +
             ",\"packing\":" + text_of_all({packing.size, packing.bits});
    sample_.add_codes(name + ".weight_packed",
                      random_codes(draw_.random, static_cast<size_t>(values), levels), levels,
                      packing.size, packing.bits);
    sample_.add_floats(name + ".weight_scale",
                       random_scales(draw_.random, static_cast<size_t>(outputs)));
    zero_points(name + ".weight_zero_point", outputs, levels);
  }

  // Adds the mask, if any; returns how many weights are stored.
  int64_t layout(const std::string& name, int64_t rows, int64_t columns, int64_t area,
                 std::string* text) {
    const unsigned which = static_cast<unsigned>(draw_.random() % 3);
    int64_t high = 1, wide = 1, values = rows * columns;
    if (which == 2) {
      high = int64_t{1} << draw_.between(0, 4);
      wide = draw_.once_in(3) ? area : int64_t{1} << draw_.between(0, 4);
      *text += ",\"block\":" + text_of_all({high, wide});
      if (draw_.once_in(2)) *text += ",\"channels_last\":true";
    }
    if (which > 0) {
      const int64_t across = (columns + wide - 1) / wide;
      std::vector<uint8_t> mask(static_cast<size_t>((rows + high - 1) / high * across));
      const unsigned share = draw_.of({1u, 2u, 6u});
      for (uint8_t& bit : mask) bit = draw_.once_in(share);
      values = 0;
      for (int64_t i = 0; i < rows * columns; ++i) {
        values += mask[static_cast<size_t>(i / columns / high * across + i % columns / wide)];
      }
      sample_.add_codes(name + ".weight_mask", mask, 2, 1, 1);
    }
    constexpr const char* kLayouts[] = {"dense", "bit mask", "block mask"};
    *text +=
        std::string(",\"layout\":\"") + kLayouts[which] + "\",\"values\":" + std::to_string(values);
    return values;
  }

  Draw& draw_;
  Sample& sample_;
  std::string text_;
};

}  // namespace micronet::engine

#endif  // MICRONET_TESTS_ENGINE_RANDOM_LAYERS_H_
