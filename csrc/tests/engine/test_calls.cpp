// Images as bytes, the caller's loops, and the instruction set that the environment names.

#include <cmath>
#include <cstdlib>
#include <thread>

#include "engine/micronet.h"
#include "engine/run/engine.h"
#include "tests/engine/refusal.h"
#include "tests/engine/sample.h"

namespace micronet::engine {
namespace {

constexpr size_t kImage = 3 * 6 * 5, kOutputs = 3;

std::vector<float> run(Engine* engine, const std::vector<float>& images) {
  const size_t batch = images.size() / kImage;
  std::vector<float> output(kOutputs * batch);
  engine->run(images.data(), static_cast<int64_t>(batch), output.data());
  return output;
}

void check_same(const std::vector<float>& found, const std::vector<float>& wanted) {
  CHECK(found.size() == wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) CHECK(same(found[i], wanted[i]));
}

// Bytes give what they are normalized to, in either order.
void test_pixels(const Sample& s, std::mt19937& random) {
  const float mean[] = {255.0f * 0.5f, 255.0f * 0.25f, 255.0f * 0.0f};
  const float std[] = {255.0f * 1.0f, 255.0f * 0.5f, 255.0f * 0.2f};
  std::vector<uint8_t> first(3 * kImage), last(3 * kImage);
  std::vector<float> images(3 * kImage);
  for (size_t i = 0; i < first.size(); ++i) {
    const size_t image = i / kImage, c = i / 30 % 3, at = i % 30;
    first[i] = static_cast<uint8_t>(random());
    last[image * kImage + at * 3 + c] = first[i];
    images[i] = (static_cast<float>(first[i]) - mean[c]) / std[c];
  }
  on_every_instruction_set([&] {
    for (const int threads : {1, 3}) {
      Engine engine(s.file(), threads);
      const std::vector<float> wanted = run(&engine, images);
      for (const bool is_last : {false, true}) {
        std::vector<float> found(3 * kOutputs);
        engine.run_pixels(is_last ? last.data() : first.data(), is_last, 3, found.data());
        check_same(found, wanted);
      }
    }
  });
}

void test_pixels_of_the_api(const Sample& s) {
  const std::vector<uint8_t> file = s.file(), pixels(2 * kImage, 9);
  char error[80] = "";
  micronet_engine* engine = micronet_open_bytes(file.data(), file.size(), 1, error, sizeof(error));
  float output[2 * kOutputs];
  const auto run_as = [&](int layout) {
    return micronet_run_pixels(engine, pixels.data(), 2, layout, output, error, sizeof(error));
  };
  CHECK(run_as(MICRONET_CHANNELS_LAST) == 0 && output[0] == output[kOutputs]);
  CHECK(run_as(2) == 1 && std::strcmp(error, "layout is 2, but must be 0 or 1") == 0);
  micronet_close(engine);
}

// A pool as a caller may have one: each loop on new threads, cut at random places.
struct CallersPool {
  std::mt19937 random;
  int loops = 0;
  int64_t lacking = 0;  // parts that it leaves out

  static void share(void* self, int64_t count, int64_t grain, micronet_task task, void* context) {
    auto& pool = *static_cast<CallersPool*>(self);
    CHECK(count > grain && grain > 0);
    ++pool.loops;
    std::vector<int64_t> cuts{0, count - pool.lacking};
    for (int i = 0; i < 5; ++i) cuts.push_back(static_cast<int64_t>(pool.random()) % cuts[1]);
    std::sort(cuts.begin(), cuts.end());
    std::vector<std::thread> threads;
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      threads.emplace_back(task, context, cuts[i], cuts[i + 1]);
    }
    for (std::thread& thread : threads) thread.join();
  }
};

void ask_for_too_much(void*, int64_t count, int64_t, micronet_task task, void* context) {
  task(context, 0, count + 1);
}

void test_callers_loops(const Sample& s, std::mt19937& random) {
  std::vector<float> images = normals(random, 400 * kImage);
  Engine own(s.file(), 2), lent(s.file());
  const std::vector<float> wanted = run(&own, images);
  CallersPool pool{std::mt19937(random())};
  lent.set_loops({CallersPool::share, &pool});
  check_same(run(&lent, images), wanted);
  CHECK(pool.loops > 3);
  pool.lacking = 1;
  check_refused("the caller's parallel loop ran", [&] { run(&lent, images); });
  const int loops = pool.loops;
  lent.set_loops({});
  check_same(run(&lent, images), wanted);
  CHECK(pool.loops == loops);
  lent.set_loops({ask_for_too_much, nullptr});
  check_refused("asks for parts that there are not", [&] { run(&lent, images); });
  pool.lacking = 0;
  lent.set_loops({CallersPool::share, &pool});
  images[kImage] = NAN;
  check_refused("an image has a value that is not finite", [&] { run(&lent, images); });
}

void test_callers_loops_of_the_api(const Sample& s) {
  const std::vector<uint8_t> file = s.file();
  micronet_engine* engine = micronet_open_bytes(file.data(), file.size(), 1, nullptr, 0);
  const std::vector<float> images(400 * kImage, 0.5f);
  std::vector<float> wanted(400 * kOutputs), found(400 * kOutputs);
  CHECK(micronet_run(engine, images.data(), 400, wanted.data(), nullptr, 0) == 0);
  CallersPool pool{std::mt19937(1)};
  micronet_set_parallel_for(engine, CallersPool::share, &pool);
  CHECK(micronet_run(engine, images.data(), 400, found.data(), nullptr, 0) == 0);
  CHECK(pool.loops > 3);
  check_same(found, wanted);
  micronet_close(engine);
}

// Before all others: the variable is read when the first engine is opened.
void test_environment(const Sample& s) {
  const std::vector<uint8_t> file = s.file();
  char error[300] = "";
  const auto open = [&] {
    return micronet_open_bytes(file.data(), file.size(), 1, error, sizeof(error));
  };
  setenv("MICRONET_CPU", "sse9", 1);
  CHECK(open() == nullptr);
  const std::string sentence =
      "MICRONET_CPU: there is no instruction set 'sse9' here; there are ba";
  CHECK(std::string(error).rfind(sentence, 0) == 0);
  setenv("MICRONET_CPU", "baseline", 1);
  CHECK(std::strcmp(micronet_instruction_set(), "baseline") == 0);
  // It was read: a name that is chosen afterwards holds.
  setenv("MICRONET_CPU", "sse9", 1);
  const Kernels* const* last = available_kernels();
  while (last[1] != nullptr) ++last;
  CHECK(micronet_choose_instruction_set((*last)->name) == 0);
  CHECK(micronet_choose_instruction_set("sse9") == 1);
  micronet_engine* engine = open();
  CHECK(engine != nullptr && std::strcmp(micronet_instruction_set(), (*last)->name) == 0);
  micronet_close(engine);
  unsetenv("MICRONET_CPU");
}

}  // namespace
}  // namespace micronet::engine

namespace micronet {

void run_tests(std::mt19937& random) {
  const engine::Sample s = engine::sample(random);
  engine::test_environment(s);
  engine::test_pixels(s, random);
  engine::test_pixels_of_the_api(s);
  engine::test_callers_loops(s, random);
  engine::test_callers_loops_of_the_api(s);
}

}  // namespace micronet
