// Runs: one answer whatever the threads, the batch and the instruction set; memory that does not
// overlap. The values themselves are held to the network's by the tests in Python.

#include <algorithm>
#include <cmath>

#include "engine/micronet.h"
#include "engine/run/engine.h"
#include "tests/engine/refusal.h"
#include "tests/engine/sample.h"

namespace micronet::engine {
namespace {

void test_arena(std::mt19937& random) {
  for (int round = 0; round < 200; ++round) {
    std::vector<Buffer> buffers;
    for (unsigned i = 0; i < 1 + random() % 20; ++i) {
      const int first = static_cast<int>(random() % 12);
      buffers.push_back(
          {static_cast<int64_t>(random() % 3000), first, first + static_cast<int>(random() % 5)});
    }
    const int64_t batch = 1 + random() % 3;
    const Placement placed = place(buffers, batch);
    for (size_t i = 0; i < buffers.size(); ++i) {
      const int64_t at = placed.offsets[i], end = at + buffers[i].bytes_per_image * batch + 64;
      CHECK(at % 64 == 0 && end <= placed.bytes);
      for (size_t j = 0; j < i; ++j) {
        if (buffers[j].last < buffers[i].first || buffers[j].first > buffers[i].last) continue;
        CHECK(placed.offsets[j] >= end ||
              placed.offsets[j] + buffers[j].bytes_per_image * batch + 64 <= at);
      }
    }
  }
}

void test_batch_cut(std::mt19937& random) {
  for (int round = 0; round < 200; ++round) {
    const int64_t large = random() % 2 == 0 ? 900000 : 3000;
    const std::vector<Buffer> buffers{{static_cast<int64_t>(random() % large), 0, 1},
                                      {static_cast<int64_t>(random() % large), 1, 2}};
    const int64_t batch = 1 + random() % 70;
    const int threads = 1 + static_cast<int>(random() % 6);
    const BatchCut cut(buffers, batch, threads, false);
    CHECK(cut.apart + cut.rest == batch && cut.rest < threads && cut.apart % threads == 0);
    CHECK(cut.parts == threads || cut.apart == 0);
    CHECK(1 <= cut.together && cut.together * threads <= std::max<int64_t>(cut.apart, threads));
    CHECK(cut.together == 1 || cut.together * place(buffers, 1).bytes <= kNearBytes);
    CHECK(cut.bytes() >= cut.parts * place(buffers, cut.apart > 0 ? cut.together : 0).bytes);
    CHECK(cut.rest == 0 || cut.bytes() >= place(buffers, cut.rest).bytes);
    const BatchCut lent(buffers, batch, threads, true);
    CHECK(lent.apart == 0 && lent.rest == batch && lent.bytes() == place(buffers, batch).bytes);
  }
}

void test_pool() {
  for (const int threads : {1, 2, 5}) {
    Pool pool(threads);
    const Pool::Use use(&pool);
    for (const int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<int> seen(static_cast<size_t>(count), 0);
      Pool::loops.run(
          count, 1,
          [](void* context, int64_t from, int64_t to) {
            for (int64_t i = from; i < to; ++i) ++static_cast<int*>(context)[i];
          },
          seen.data());
      CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
    }
    check_refused("thrown", [] {
      Pool::loops.run(100, 1, [](void*, int64_t, int64_t) { refuse("thrown"); }, nullptr);
    });
  }
}

std::vector<float> run(Engine* engine, const std::vector<float>& images) {
  const int64_t batch = static_cast<int64_t>(images.size()) / 90;
  std::vector<float> output(static_cast<size_t>(3 * batch));
  engine->run(images.data(), batch, output.data());
  return output;
}

void test_one_answer(const Sample& s, std::mt19937& random) {
  const std::vector<uint8_t> file = s.file();
  const std::vector<float> images = normals(random, 3 * 90);
  std::vector<float> wanted;
  on_every_instruction_set([&] {
    for (const int threads : {1, 2, 3}) {
      Engine engine(file, threads);
      const std::vector<float> all = run(&engine, images);
      if (wanted.empty()) wanted = all;
      for (size_t image = 0; image < 3; ++image) {
        const auto from = images.begin() + static_cast<std::ptrdiff_t>(90 * image);
        const std::vector<float> one = run(&engine, {from, from + 90});
        for (size_t i = 0; i < 3; ++i) {
          CHECK(same(all[3 * image + i], wanted[3 * image + i]));
          CHECK(same(one[i], wanted[3 * image + i]));
        }
      }
    }
  });
  CHECK(std::all_of(wanted.begin(), wanted.end(), [](float v) { return std::isfinite(v); }));
}

// Images by themselves and those that are left over: each its own output, and a step's time.
void test_batches(const Sample& s, std::mt19937& random) {
  const std::vector<uint8_t> file = s.file();
  const std::vector<float> images = normals(random, 70 * 90);
  Engine single(file, 1);
  std::vector<float> wanted;
  for (auto from = images.begin(); from != images.end(); from += 90) {
    for (const float value : run(&single, {from, from + 90})) wanted.push_back(value);
  }
  for (const int threads : {1, 2, 3, 5}) {
    Engine engine(file, threads);
    for (const int64_t batch : {1, 2, 4, 7, 16, 70, 5}) {
      if (batch == 5) engine.start_profile();
      const std::vector<float> found = run(&engine, {images.begin(), images.begin() + 90 * batch});
      for (size_t i = 0; i < found.size(); ++i) CHECK(same(found[i], wanted[i]));
    }
    for (const StepTime& step : engine.profile()) CHECK(step.seconds > 0.0);
  }
}

void test_a_failure_among_many_images(const Sample& s) {
  for (const int threads : {1, 2, 3}) {
    Engine engine(s.file(), threads);
    for (const size_t image : {0, 5, 7}) {
      std::vector<float> images(8 * 90, 0.0f);
      images[90 * image + 17] = NAN;
      check_refused("an image has a value that is not finite", [&] { run(&engine, images); });
      images[90 * image + 17] = 0.0f;
      for (const float value : run(&engine, images)) CHECK(std::isfinite(value));
    }
  }
}

void test_values_without_codes(const Sample& s) {
  Engine engine(s.file());
  for (const float odd : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> images(180, 0.0f);
    images[100] = odd;
    check_refused("an image has a value that is not finite", [&] { run(&engine, images); });
  }
  check_refused("0 images are not", [&] { run(&engine, {}); });
}

// Windows that all hold the whole image, however far they reach: only what is in it takes time.
void test_windows_beyond_the_image(const Sample& s, std::mt19937& random) {
  const std::vector<float> images = normals(random, 90);
  const auto answer = [&](const std::string& kernel, const std::string& padding) {
    Sample changed = s;
    const std::string window =
        "\"kernel\":[2,2],\"kind\":\"pool\",\"padding\":[0,0],\"stride\":[2,2]";
    const size_t at = changed.document.find(window);
    CHECK(at != changed.document.npos);
    changed.document.replace(
        at, window.size(),
        "\"kernel\":" + kernel + ",\"kind\":\"pool\",\"padding\":" + padding + ",\"stride\":[2,3]");
    Engine engine(changed.file());
    return run(&engine, images);
  };
  const std::vector<float> wanted = answer("[13,11]", "[6,5]");
  const std::vector<float> found = answer("[65535,65535]", "[32767,32767]");
  for (size_t i = 0; i < 3; ++i) CHECK(same(found[i], wanted[i]));
}

void test_api(const Sample& s) {
  const std::vector<uint8_t> file = s.file();
  char error[80] = "";
  CHECK(micronet_open("/no/such/file", 1, error, sizeof(error)) == nullptr);
  CHECK(std::strcmp(error, "/no/such/file: cannot be read: No such file or directory") == 0);
  CHECK(micronet_open_bytes(file.data(), 3, 1, error, 8) == nullptr && std::strlen(error) == 7);
  CHECK(micronet_open_bytes(file.data(), file.size(), 0, nullptr, 0) == nullptr);
  micronet_engine* engine = micronet_open_bytes(file.data(), file.size(), 2, error, sizeof(error));
  CHECK(engine != nullptr);
  int64_t shape[4];
  micronet_input_shape(engine, shape);
  CHECK(shape[0] == 3 && shape[1] == 6 && shape[2] == 5);
  CHECK(micronet_output_shape(engine, shape) == 1 && shape[0] == 3);
  CHECK(micronet_class_count(engine) == 3 &&
        std::strcmp(micronet_class_name(engine, 1), "dog") == 0);
  CHECK(micronet_class_name(engine, 3) == nullptr);
  float mean[3], std[3];
  CHECK(micronet_normalization(engine, mean, std) == 0 && mean[1] == 0.25f && std[2] == 0.2f);
  CHECK(micronet_arena_bytes(engine, 2) > 0 && micronet_arena_bytes(engine, 0) == 0);
  CHECK(micronet_reserve(engine, 2, error, sizeof(error)) == 0);
  CHECK(micronet_reserve(engine, 70000, error, sizeof(error)) == 1);
  std::vector<float> images(180, 0.5f);
  float output[6];
  micronet_start_profile(engine);
  CHECK(micronet_run(engine, images.data(), 2, output, error, sizeof(error)) == 0);
  CHECK(output[0] == output[3] && micronet_step_count(engine) > 10);
  double seconds = -1.0;
  CHECK(micronet_step(engine, 0, &seconds) != nullptr && seconds >= 0.0);
  images[0] = NAN;
  CHECK(micronet_run(engine, images.data(), 2, output, error, sizeof(error)) == 1);
  micronet_close(engine);
  micronet_close(nullptr);
}

}  // namespace
}  // namespace micronet::engine

namespace micronet {

void run_tests(std::mt19937& random) {
  const engine::Sample s = engine::sample(random);
  engine::test_arena(random);
  engine::test_batch_cut(random);
  engine::test_pool();
  engine::test_one_answer(s, random);
  engine::test_batches(s, random);
  engine::test_a_failure_among_many_images(s);
  engine::test_values_without_codes(s);
  engine::test_windows_beyond_the_image(s, random);
  engine::test_api(s);
}

}  // namespace micronet
