// The C API: exceptions become sentences.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <system_error>

#include "cpu/choice.h"
#include "cpu/kernels.h"
#include "engine/format/error.h"
#include "engine/micronet.h"
#include "engine/run/engine.h"

struct micronet_engine {
  std::unique_ptr<micronet::engine::Engine> engine;
};

namespace {

using micronet::engine::Engine;
using micronet::engine::Sizes;

void say(const char* sentence, char* error, size_t error_size) {
  if (error == nullptr || error_size == 0) return;
  const size_t length = std::min(std::strlen(sentence), error_size - 1);
  // Names are the file's: a sentence stays one line.
  std::transform(sentence, sentence + length, error,
                 [](char c) { return static_cast<unsigned char>(c) < 0x20 ? '?' : c; });
  error[length] = '\0';
}

// 0, or 1 and a sentence.
template <typename Body>
int guarded(char* error, size_t error_size, const Body& body) noexcept {
  try {
    body();
    return 0;
  } catch (const micronet::engine::Refused& refused) {
    say(refused.what(), error, error_size);
  } catch (const std::bad_alloc&) {
    say("there is not enough memory", error, error_size);
  } catch (const std::system_error& failure) {
    say(failure.what(), error, error_size);  // of a thread that could not be started
  } catch (const std::exception& failure) {
    say(failure.what(), error, error_size);
  }
  return 1;
}

// Of this library, whose choice holds for all engines.
std::atomic<bool> is_set_chosen{false};

void obey_environment() {
  if (is_set_chosen) return;
  const std::string problem = micronet::choose_by_environment();
  micronet::engine::require(problem.empty(), problem);
  is_set_chosen = true;
}

template <typename Make>
micronet_engine* opened(char* error, size_t error_size, const Make& make) {
  micronet_engine* result = nullptr;
  guarded(error, error_size, [&] {
    obey_environment();
    std::unique_ptr<Engine> engine = make();
    result = new micronet_engine{std::move(engine)};
  });
  return result;
}

}  // namespace

extern "C" {

int micronet_api_version(void) { return MICRONET_API_VERSION; }

micronet_engine* micronet_open(const char* path, int threads, char* error, size_t error_size) {
  return opened(error, error_size, [&] { return Engine::open(path, threads); });
}

micronet_engine* micronet_open_bytes(const void* bytes, size_t size, int threads, char* error,
                                     size_t error_size) {
  return opened(error, error_size, [&] {
    return std::make_unique<Engine>(std::span(static_cast<const uint8_t*>(bytes), size), threads);
  });
}

void micronet_close(micronet_engine* engine) { delete engine; }

void micronet_input_shape(const micronet_engine* engine, int64_t shape[3]) {
  const Sizes& input = engine->engine->document().input;
  std::copy(input.begin(), input.end(), shape);
}

int micronet_output_shape(const micronet_engine* engine, int64_t shape[4]) {
  const Sizes& output = engine->engine->output_shape();
  std::copy(output.begin(), output.end(), shape);
  return static_cast<int>(output.size());
}

int micronet_run(micronet_engine* engine, const float* images, int64_t batch, float* output,
                 char* error, size_t error_size) {
  return guarded(error, error_size, [&] { engine->engine->run(images, batch, output); });
}

int micronet_run_pixels(micronet_engine* engine, const uint8_t* pixels, int64_t batch, int layout,
                        float* output, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    micronet::engine::require(layout == MICRONET_CHANNELS_FIRST || layout == MICRONET_CHANNELS_LAST,
                              "layout is " + std::to_string(layout) + ", but must be 0 or 1");
    engine->engine->run_pixels(pixels, layout == MICRONET_CHANNELS_LAST, batch, output);
  });
}

void micronet_set_parallel_for(micronet_engine* engine, micronet_parallel_for loops, void* pool) {
  engine->engine->set_loops({loops, pool});
}

int micronet_reserve(micronet_engine* engine, int64_t batch, char* error, size_t error_size) {
  return guarded(error, error_size, [&] { engine->engine->reserve(batch); });
}

int64_t micronet_arena_bytes(const micronet_engine* engine, int64_t batch) {
  int64_t bytes = 0;
  guarded(nullptr, 0, [&] { bytes = engine->engine->arena_bytes(batch); });
  return bytes;
}

int64_t micronet_class_count(const micronet_engine* engine) {
  return static_cast<int64_t>(engine->engine->document().classes.size());
}

const char* micronet_class_name(const micronet_engine* engine, int64_t index) {
  if (index < 0 || index >= micronet_class_count(engine)) return nullptr;
  return engine->engine->document().classes[static_cast<size_t>(index)].c_str();
}

int micronet_normalization(const micronet_engine* engine, float* mean, float* std) {
  const auto& document = engine->engine->document();
  if (!document.has_normalization()) return 1;
  std::copy(document.mean.begin(), document.mean.end(), mean);
  std::copy(document.std.begin(), document.std.end(), std);
  return 0;
}

void micronet_start_profile(micronet_engine* engine) {
  guarded(nullptr, 0, [&] { engine->engine->start_profile(); });
}

int64_t micronet_step_count(const micronet_engine* engine) {
  return static_cast<int64_t>(engine->engine->profile().size());
}

const char* micronet_step(const micronet_engine* engine, int64_t index, double* seconds) {
  if (index < 0 || index >= micronet_step_count(engine)) return nullptr;
  const auto& step = engine->engine->profile()[static_cast<size_t>(index)];
  *seconds = step.seconds;
  return step.title.c_str();
}

const char* micronet_instruction_set(void) {
  guarded(nullptr, 0, obey_environment);
  return micronet::kernels().name;
}

int micronet_choose_instruction_set(const char* name) {
  if (!micronet::choose_kernels(name)) return 1;
  is_set_chosen = true;
  return 0;
}

}  // extern "C"
