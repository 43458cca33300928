// Packed files of random small networks: every kind of node and of layer, shapes that mostly fit.
#ifndef MICRONET_TESTS_ENGINE_RANDOM_NETWORK_H_
#define MICRONET_TESTS_ENGINE_RANDOM_NETWORK_H_

#include <algorithm>
#include <string>
#include <vector>

#include "tests/engine/random_layers.h"

namespace micronet::engine {

// A chain of nodes, each of which reads the one before it, and some an earlier one as well.
class RandomNetwork {
 public:
  explicit RandomNetwork(std::mt19937& random) : draw_{random} {}

  Sample make() {
    const Sizes input{draw_.between(1, 5), draw_.between(1, 7), draw_.between(1, 7)};
    nodes_ = "{\"kind\":\"input\"}";
    signals_.push_back({input, 0});
    for (int64_t left = draw_.between(1, 9); left > 0; --left) add_node();
    sample_.document =
        "{\"about\":{\"arch\":\"random\"},\"format\":\"micronet-packed\",\"version\":1,\"input\":" +
        text_of_all(input) + ",\"output\":" + std::to_string(last()) +
        ",\"quantization_config\":{},\"layers\":{" + layers_.text() + "},\"nodes\":[" + nodes_ +
        "]";
    return std::move(sample_);
  }

 private:
  struct Known {
    Sizes shape;
    int levels;
  };

  size_t last() const { return signals_.size() - 1; }
  // A copy: signals move as they grow.
  Known from() const { return signals_[last()]; }
  std::string new_name(char kind) { return kind + std::to_string(signals_.size()); }

  void node(const std::string& kind, const std::string& more, const Sizes& shape, int levels = 0,
            Sizes also = {}) {
    also.insert(also.begin(), static_cast<int64_t>(last()));
    nodes_ += ",{\"inputs\":" + text_of_all(also) + ",\"kind\":\"" + kind + "\"" + more + "}";
    signals_.push_back({shape, levels});
  }

  void add_node() {
    const bool has_area = from().shape.size() == 3, is_line = from().shape.size() == 1;
    if (from().levels > 0 && !draw_.once_in(4)) {
      if (draw_.once_in(4)) return table();
      if (has_area) return conv(true);
      if (is_line) return linear(true);
    }
    switch (draw_.random() % 12) {
      case 0:
      case 1:
      case 2:
        return from().levels > 0 ? table() : quantize();
      case 3:
        return has_area ? conv(false) : reshape();
      case 4:
        return is_line ? linear(false) : reshape();
      case 5:
        return activation();
      case 6:
        return has_area ? pool() : activation();
      case 7:
        return gate();
      case 8:
        return draw_.once_in(2) ? node("add", "", from().shape, 0, {like_last()}) : concat();
      case 9:
        return slice();
      case 10:
        return pad();
      default:
        return activation();
    }
  }

  // An earlier signal of the same shape, or the last one itself.
  int64_t like_last() {
    const int64_t other = draw_.between(0, static_cast<int64_t>(last()));
    const bool fits = signals_[static_cast<size_t>(other)].shape == from().shape;
    return fits ? other : static_cast<int64_t>(last());
  }

  void quantize() {
    const std::string name = new_name('q');
    const int levels = layers_.some_levels();
    sample_.add_floats(name + "_scale", random_scales(draw_.random, 1));
    layers_.zero_points(name + "_zero_point", 1, levels);
    node("quantize", levels_and_name(levels, name), from().shape, levels);
  }

  void table() {
    const std::string name = new_name('t');
    const int levels = layers_.some_levels();
    sample_.add_floats(name + "_scale", random_scales(draw_.random, 1));
    layers_.zero_points(name + "_zero_point", 1, levels);
    layers_.zero_points(name + "_table", from().levels, levels);
    node("table", levels_and_name(levels, name), from().shape, levels);
  }

  static std::string levels_and_name(int levels, const std::string& name) {
    return ",\"levels\":" + std::to_string(levels) + ",\"name\":\"" + name + "\"";
  }

  void activation() {
    const std::string function =
        draw_.of<const char*>({"relu", "relu6", "hardswish", "hardsigmoid", "swish", "sigmoid"});
    node("activation", ",\"exact\":true,\"function\":\"" + function + "\"", from().shape);
  }

  void pool() {
    const Sizes shape = from().shape;
    if (draw_.once_in(3)) {
      return node("pool", ",\"exact\":true,\"function\":\"mean\"", {shape[0], 1, 1});
    }
    const Sizes kernel = two(1, 3), stride = two(1, 3), dilation = two(1, 2);
    const Sizes padding{draw_.between(0, kernel[0] / 2), draw_.between(0, kernel[1] / 2)};
    const Sizes to{shape[0], windows(shape[1], 2 * padding[0], kernel[0], stride[0], dilation[0]),
                   windows(shape[2], 2 * padding[1], kernel[1], stride[1], dilation[1])};
    if (to[1] == 0 || to[2] == 0) return activation();
    node("pool",
         ",\"dilation\":" + text_of_all(dilation) +
             ",\"exact\":true,\"function\":\"max\",\"kernel\":" + text_of_all(kernel) +
             ",\"padding\":" + text_of_all(padding) + ",\"stride\":" + text_of_all(stride),
         to);
  }

  Sizes two(int64_t least, int64_t most) {
    return {draw_.between(least, most), draw_.between(least, most)};
  }

  static int64_t windows(int64_t size, int64_t border, int64_t kernel, int64_t stride,
                         int64_t dilation) {
    return std::max<int64_t>(0, size + border - dilation * (kernel - 1) - 1 + stride) / stride;
  }

  void gate() {
    const Sizes shape = from().shape;
    const int64_t source = static_cast<int64_t>(last());
    if (shape.size() != 3 || draw_.once_in(3)) return node("gate", "", shape, 0, {like_last()});
    node("pool", ",\"exact\":true,\"function\":\"mean\"", {shape[0], 1, 1});
    // The factors are the second input: the chain goes through them.
    nodes_ += ",{\"inputs\":" + text_of_all({source, static_cast<int64_t>(last())}) +
              ",\"kind\":\"gate\"}";
    signals_.push_back({shape, 0});
  }

  void concat() {
    Sizes shape = from().shape;
    Sizes also;
    for (int64_t more = draw_.between(0, 2); more > 0; --more) also.push_back(like_last());
    shape[0] *= 1 + static_cast<int64_t>(also.size());
    node("concat", "", shape, 0, also);
  }

  void reshape() {
    const Sizes shape = from().shape;
    int64_t numel = 1;
    for (const int64_t size : shape) numel *= size;
    const int64_t part = draw_.between(1, 4);
    const Sizes to = numel % part != 0 || draw_.once_in(2) ? Sizes{numel}
                     : draw_.once_in(2)                    ? Sizes{part, numel / part, 1}
                                                           : Sizes{1, part, 1, numel / part};
    node("reshape", ",\"shape\":" + text_of_all(to), to);
  }

  void slice() {
    const Sizes shape = from().shape;
    Sizes start, stop, step, to;
    for (const int64_t size : shape) {
      start.push_back(draw_.between(0, size - 1));
      stop.push_back(draw_.between(start.back() + 1, size));
      step.push_back(draw_.between(1, 3));
      to.push_back((stop.back() - start.back() - 1) / step.back() + 1);
    }
    node("slice",
         ",\"start\":" + text_of_all(start) + ",\"step\":" + text_of_all(step) +
             ",\"stop\":" + text_of_all(stop),
         to);
  }

  void pad() {
    Sizes before, after, to;
    for (const int64_t size : from().shape) {
      before.push_back(draw_.between(0, 2));
      after.push_back(draw_.between(0, 2));
      to.push_back(before.back() + size + after.back());
    }
    node("pad", ",\"after\":" + text_of_all(after) + ",\"before\":" + text_of_all(before), to);
  }

  void linear(bool is_integer) {
    const int64_t outputs = draw_.between(1, 20);
    const std::string sums = is_integer ? "integer" : draw_.of<const char*>({"scaled", "float"});
    const std::string name = new_name('l');
    layers_.add(name, {outputs, from().shape[0]}, sums, "");
    node("linear", ",\"layer\":\"" + name + "\"", {outputs});
  }

  void conv(bool is_integer) {
    const Sizes shape = from().shape;
    const int64_t groups = draw_.once_in(2) ? shape[0] : 1;
    const int64_t outputs = groups * draw_.between(1, groups == 1 ? 20 : 2);
    const Sizes kernel = two(1, 3), stride = two(1, 2), dilation = two(1, 2);
    const Sizes padding{draw_.between(0, 2), draw_.between(0, 2), draw_.between(0, 2),
                        draw_.between(0, 2)};
    const Sizes to{outputs,
                   windows(shape[1], padding[0] + padding[2], kernel[0], stride[0], dilation[0]),
                   windows(shape[2], padding[1] + padding[3], kernel[1], stride[1], dilation[1])};
    if (to[1] == 0 || to[2] == 0) return activation();
    const std::string geometry =
        ",\"dilation\":" + text_of_all(dilation) + ",\"groups\":" + std::to_string(groups) +
        ",\"padding\":" + text_of_all(padding) + ",\"stride\":" + text_of_all(stride);
    const std::string name = new_name('l');
    layers_.add(name, {outputs, shape[0] / groups, kernel[0], kernel[1]},
                is_integer ? "integer" : "float", geometry);
    node("conv", ",\"layer\":\"" + name + "\"", to);
  }

  Draw draw_;
  Sample sample_;
  RandomLayers layers_{&draw_, &sample_};
  std::string nodes_;
  std::vector<Known> signals_;
};

}  // namespace micronet::engine

#endif  // MICRONET_TESTS_ENGINE_RANDOM_NETWORK_H_
