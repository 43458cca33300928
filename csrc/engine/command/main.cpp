// micronet-run: the answer of a packed network to images, and how long it takes.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/command/picture.h"
#include "engine/micronet.h"

namespace {

constexpr const char* kUsage =
    "usage: micronet-run MODEL [IMAGE ...] [options]\n"
    "\n"
    "MODEL is a packed file, or a folder that has one. IMAGE is a .ppm, .pgm or .jpg of the\n"
    "network's size, a .u8 of bytes [H, W, C], or a .f32 of floats [C, H, W], normalized.\n"
    "\n"
    "  --top N              classes that are printed (5)\n"
    "  --labels FILE        names of the outputs, one a line, in place of the file's classes\n"
    "  --values             all outputs, in hexadecimal floats, in place of classes\n"
    "  --threads N          threads of a run (1)\n"
    "  --batch N            images of a run of --bench and --profile (1)\n"
    "  --bench SECONDS      times runs of constant images\n"
    "  --profile            the time of each step, of the runs of --bench or of one second\n"
    "  --instruction-set S  loops of another instruction set than the machine's best, or than\n"
    "                       the one that MICRONET_CPU names\n"
    "  --version            the version of the C API\n";

struct Options {
  std::vector<std::string> files;  // the model first
  std::string set, labels;
  int top = 5, threads = 1, batch = 1;
  double seconds = 0.0;
  bool values = false, profile = false;
};

[[noreturn]] void fail(const std::string& sentence) { throw std::runtime_error(sentence); }

double number(const std::string& name, const char* text, double least, double most) {
  char* end = nullptr;
  const double value = text == nullptr ? 0.0 : std::strtod(text, &end);
  if (text == nullptr || end == text || *end != '\0' || !(value >= least && value <= most)) {
    fail(name + " must be a number of " + std::to_string(static_cast<int>(least)) + " to " +
         std::to_string(static_cast<int>(most)));
  }
  return value;
}

Options read_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto next = [&] { return argv[++i < argc ? i : argc]; };
    const auto whole = [&](int most) { return static_cast<int>(number(name, next(), 1, most)); };
    if (name == "--top") {
      options.top = whole(1000000);
    } else if (name == "--threads") {
      options.threads = whole(256);
    } else if (name == "--batch") {
      options.batch = whole(65536);
    } else if (name == "--bench") {
      options.seconds = number(name, next(), 0, 86400);
    } else if (name == "--instruction-set") {
      options.set = next() == nullptr ? "" : argv[i];
    } else if (name == "--labels") {
      options.labels = next() == nullptr ? "" : argv[i];
      if (options.labels.empty()) fail("--labels must be a file");
    } else if (name == "--values") {
      options.values = true;
    } else if (name == "--profile") {
      options.profile = true;
    } else if (name.rfind("--", 0) == 0) {
      fail("unknown option " + name + "\n\n" + kUsage);
    } else {
      options.files.push_back(name);
    }
  }
  if (options.files.empty()) fail(kUsage);
  if (options.profile && options.seconds == 0.0) options.seconds = 1.0;
  return options;
}

struct Close {
  void operator()(micronet_engine* engine) const { micronet_close(engine); }
};

struct Network {
  std::unique_ptr<micronet_engine, Close> engine;
  Wanted wanted{};
  int64_t outputs = 1;

  explicit Network(const Options& options) {
    char error[512];
    engine.reset(micronet_open(options.files[0].c_str(), options.threads, error, sizeof(error)));
    if (engine == nullptr) fail(error);
    int64_t shape[4];
    micronet_input_shape(engine.get(), shape);
    wanted.channels = shape[0], wanted.height = shape[1], wanted.width = shape[2];
    const int axes = micronet_output_shape(engine.get(), shape);
    for (int i = 0; i < axes; ++i) outputs *= shape[i];
  }

  std::vector<float> run(const std::vector<float>& images, int64_t batch) const {
    std::vector<float> output(static_cast<size_t>(batch * outputs));
    char error[512];
    if (micronet_run(engine.get(), images.data(), batch, output.data(), error, sizeof(error)) !=
        0) {
      fail(error);
    }
    return output;
  }

  std::vector<float> run(const Picture& picture, const std::string& path) const {
    if (picture.pixels.empty()) return run(picture.values, 1);
    std::vector<float> output(static_cast<size_t>(outputs));
    char error[512];
    if (micronet_run_pixels(engine.get(), picture.pixels.data(), 1, MICRONET_CHANNELS_LAST,
                            output.data(), error, sizeof(error)) != 0) {
      fail(path + ": " + error);
    }
    return output;
  }
};

std::vector<std::string> read_labels(const std::string& path, int64_t outputs) {
  std::ifstream file(path);
  if (!file) fail(path + ": cannot be read");
  std::vector<std::string> labels;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    labels.push_back(line);
  }
  if (static_cast<int64_t>(labels.size()) != outputs) {
    fail(path + ": has " + std::to_string(labels.size()) + " labels, but the network has " +
         std::to_string(outputs) + " outputs");
  }
  return labels;
}

void print_classes(const Network& network, const std::vector<float>& output,
                   const std::vector<std::string>& labels, int top) {
  std::vector<int64_t> order(output.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return output[static_cast<size_t>(a)] > output[static_cast<size_t>(b)];
  });
  for (size_t i = 0; i < order.size() && i < static_cast<size_t>(top); ++i) {
    const char* name = labels.empty() ? micronet_class_name(network.engine.get(), order[i])
                                      : labels[static_cast<size_t>(order[i])].c_str();
    std::printf("%10.4f  %s\n", static_cast<double>(output[static_cast<size_t>(order[i])]),
                name == nullptr ? std::to_string(order[i]).c_str() : name);
  }
}

void answer(const Network& network, const Options& options) {
  std::vector<std::string> labels;
  if (!options.labels.empty()) labels = read_labels(options.labels, network.outputs);
  for (size_t i = 1; i < options.files.size(); ++i) {
    const std::string& path = options.files[i];
    const std::vector<float> output = network.run(read_picture(path, network.wanted), path);
    if (!options.values) {
      std::printf("%s\n", options.files[i].c_str());
      print_classes(network, output, labels, options.top);
      continue;
    }
    for (const float value : output) std::printf("%a\n", static_cast<double>(value));
  }
}

void print_profile(const Network& network, size_t runs) {
  const int64_t steps = micronet_step_count(network.engine.get());
  for (int64_t i = 0; i < steps; ++i) {
    double seconds = 0.0;
    const char* title = micronet_step(network.engine.get(), i, &seconds);
    std::printf("%10.2f us  %s\n", 1e6 * seconds / static_cast<double>(runs), title);
  }
}

void bench(const Network& network, const Options& options) {
  using Clock = std::chrono::steady_clock;
  const Wanted& w = network.wanted;
  const std::vector<float> images(
      static_cast<size_t>(options.batch * w.channels * w.height * w.width), 0.5f);
  network.run(images, options.batch);
  if (options.profile) micronet_start_profile(network.engine.get());
  std::vector<double> times;
  const Clock::time_point begin = Clock::now();
  for (Clock::time_point start = begin;
       times.empty() || std::chrono::duration<double>(start - begin).count() < options.seconds;) {
    network.run(images, options.batch);
    const Clock::time_point end = Clock::now();
    times.push_back(std::chrono::duration<double>(end - start).count());
    start = end;
  }
  if (options.profile) print_profile(network, times.size());
  std::sort(times.begin(), times.end());
  std::printf("%s, threads %d, batch %d: median %.3f ms, least %.3f ms, %zu runs\n",
              micronet_instruction_set(), options.threads, options.batch,
              1e3 * times[times.size() / 2], 1e3 * times[0], times.size());
}

void run(const Options& options) {
  if (!options.set.empty() && micronet_choose_instruction_set(options.set.c_str()) != 0) {
    fail("this machine has no instruction set " + options.set);
  }
  const Network network(options);
  if (options.files.size() == 1 && options.seconds == 0.0) {
    const Wanted& w = network.wanted;
    std::printf("input [%lld, %lld, %lld], %lld outputs, arena of %lld bytes an image\n",
                static_cast<long long>(w.channels), static_cast<long long>(w.height),
                static_cast<long long>(w.width), static_cast<long long>(network.outputs),
                static_cast<long long>(micronet_arena_bytes(network.engine.get(), 1)));
  }
  answer(network, options);
  if (options.seconds > 0.0) bench(network, options);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--version") == 0) {
    std::printf("micronet C API %d\n", micronet_api_version());
    return 0;
  }
  if (argc == 2 && std::strcmp(argv[1], "--help") == 0) {
    std::printf("%s", kUsage);
    return 0;
  }
  try {
    run(read_options(argc, argv));
    return 0;
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "micronet-run: %s\n", failure.what());
    return 2;
  }
}
