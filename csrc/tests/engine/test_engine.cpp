// Runs: one answer whatever the threads, the batch and the instruction set; memory that does not
// overlap; changed files. The values themselves are held to the network's by the tests in Python.

#include <algorithm>
#include <chrono>
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

void test_values_without_codes(const Sample& s) {
  Engine engine(s.file());
  for (const float odd : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> images(180, 0.0f);
    images[100] = odd;
    check_refused("an image has a value that is not finite", [&] { run(&engine, images); });
  }
  check_refused("0 images are not", [&] { run(&engine, {}); });
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

// A file that was changed: its bytes, its document's text, or its tensors under their checksum.
std::vector<uint8_t> changed(const Sample& s, std::mt19937& random) {
  constexpr const char* kParts[] = {"0",    "9",    "-",   "[",     "]",     "{",
                                    "}",    ",",    "\"",  ":",     "65536", "2147483647",
                                    "null", "true", "[1]", "\"x\"", ""};
  Sample copy = s;
  const unsigned way = random() % 4, times = 1 + random() % 4;
  std::vector<uint8_t> file;
  if (way == 0) {
    file = s.file();
    for (unsigned i = 0; i < times; ++i)
      file[random() % file.size()] = static_cast<uint8_t>(random());
    if (random() % 4 == 0) file.resize(random() % file.size());
    return file;
  }
  for (unsigned i = 0; i < times; ++i) {
    if (way < 3) {
      const size_t at = random() % copy.document.size();
      copy.document.replace(at, random() % (way == 1 ? 2 : 5),
                            kParts[random() % std::size(kParts)]);
      continue;
    }
    auto tensor = copy.tensors.begin();
    std::advance(tensor, random() % copy.tensors.size());
    std::vector<uint8_t>& bytes = tensor->second.bytes;
    if (!bytes.empty()) bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
  }
  return copy.file();
}

// Runs a file if it is taken and small; what is said is one line.
bool take(const std::vector<uint8_t>& file, int threads) {
  char error[1000] = "";
  const auto check_error = [&] {
    CHECK(std::strlen(error) > 0);
    CHECK(std::all_of(error, error + std::strlen(error), [](char c) { return c != '\n'; }));
  };
  micronet_engine* engine =
      micronet_open_bytes(file.data(), file.size(), threads, error, sizeof(error));
  if (engine == nullptr) {
    check_error();
    return false;
  }
  int64_t in[3], out[4], outputs = 1;
  micronet_input_shape(engine, in);
  for (int i = micronet_output_shape(engine, out); i-- > 0;) outputs *= out[i];
  if (micronet_arena_bytes(engine, 1) < int64_t{1} << 22) {
    const std::vector<float> images(static_cast<size_t>(in[0] * in[1] * in[2]), 0.7f);
    std::vector<float> output(static_cast<size_t>(outputs));
    const int failed = micronet_run(engine, images.data(), 1, output.data(), error, sizeof(error));
    if (failed != 0) check_error();
  }
  micronet_close(engine);
  return true;
}

// Seconds: 3, or what the variable MICRONET_FUZZ_SECONDS says.
void test_changed_files(const Sample& s, std::mt19937& random) {
  using Clock = std::chrono::steady_clock;
  const char* asked = std::getenv("MICRONET_FUZZ_SECONDS");
  const double seconds = asked == nullptr ? 3.0 : std::atof(asked);
  const Clock::time_point begin = Clock::now();
  int files = 0, taken = 0;
  while (std::chrono::duration<double>(Clock::now() - begin).count() < seconds) {
    taken += take(changed(s, random), 1 + static_cast<int>(random() % 2));
    ++files;
  }
  std::printf("%d changed files, %d taken\n", files, taken);
  CHECK(taken > 0 && taken < files);
}

}  // namespace
}  // namespace micronet::engine

namespace micronet {

void run_tests(std::mt19937& random) {
  const engine::Sample s = engine::sample(random);
  engine::test_arena(random);
  engine::test_pool();
  engine::test_one_answer(s, random);
  engine::test_values_without_codes(s);
  engine::test_api(s);
  engine::test_changed_files(s, random);
}

}  // namespace micronet
