// Changed files: each is refused in one sentence, or runs, within the time and the memory that its
// size allows. Three seconds of them, at least 300, or as many as MICRONET_FUZZ_INPUTS says; the
// input of a number depends on the seed and the number alone, and MICRONET_FUZZ_FIRST says where to
// begin.

#include <algorithm>
#include <chrono>
#include <string>

#include "engine/graph/graph.h"
#include "engine/micronet.h"
#include "engine/run/engine.h"
#include "tests/engine/limits.h"
#include "tests/engine/mutation.h"
#include "tests/engine/random_network.h"
#include "tests/engine/refusal.h"

namespace micronet::engine {
namespace {

constexpr int kMostSeconds = 10;  // of one input
constexpr int64_t kLeastInputs = 300;
constexpr int64_t kMostArena = int64_t{1} << 18;  // of what is run

// How far an input got. Of those that are refused only some are read again to see by what.
enum Stage { kRefused, kContainer, kDocument, kGraph, kTensors, kLarge, kStopped, kRan, kStages };
constexpr const char* kStageNames[] = {"refused", "container", "document", "graph",
                                       "tensors", "large",     "stopped",  "ran"};

// For the last words of a process.
unsigned seed = 0;
int64_t number = 0;

void say_which() {
  char text[80];
  const int length =
      std::snprintf(text, sizeof(text), "input %lld: ", static_cast<long long>(number));
  (void)!write(2, text, static_cast<size_t>(length));
}

// A weight takes 16 bytes as a float, with its copies in another order and while they are made; as
// a code 20, where a panel of sixteen channels holds but one of a group.
int64_t most_memory(size_t file_bytes) { return (1 << 20) + most_weights(file_bytes) * 20; }

// Which part of a file was refused.
Stage refused_at(const std::vector<uint8_t>& file) {
  Stage stage = kContainer;
  refusal_of([&] {
    const Container container(file);
    stage = kDocument;
    const Document document(container.document, container.file_bytes);
    stage = kGraph;
    signals_of(document);
    stage = kTensors;
  });
  return stage;
}

struct Call {
  int threads;
  int64_t batch;
  size_t first_value;
};

class Target {
 public:
  explicit Target(std::mt19937& random) : values_(normals(random, 1 << 17)) {
    for (const Kernels* const* set = available_kernels(); *set != nullptr; ++set) {
      sets_.push_back((*set)->name);
    }
  }

  // Mostly the machine's best instruction set and one thread.
  Stage take(const std::vector<uint8_t>& file, std::mt19937& random) const {
    choose_kernels(sets_[random() % 4 == 0 ? random() % sets_.size() : sets_.size() - 1]);
    const Call call{random() % 64 == 0 ? 2 : 1, 1 + static_cast<int64_t>(random() % 2),
                    random() % (values_.size() / 2)};
    std::string sentence(1000, '\0');
    micronet_engine* engine = micronet_open_bytes(file.data(), file.size(), call.threads,
                                                  sentence.data(), sentence.size());
    if (engine == nullptr) {
      check_sentence(sentence);
      return number % 8 == 0 ? refused_at(file) : kRefused;
    }
    const Stage stage = run(engine, call);
    micronet_close(engine);
    return stage;
  }

 private:
  static void check_sentence(const std::string& text) {
    const std::string sentence = text.c_str();
    CHECK(!sentence.empty() && sentence.find('\n') == sentence.npos);
    CHECK(sentence.find("std::") == sentence.npos);  // none of the library's own
  }

  Stage run(micronet_engine* engine, const Call& call) const {
    int64_t in[3], out[4], outputs = call.batch;
    micronet_input_shape(engine, in);
    for (int i = micronet_output_shape(engine, out); i-- > 0;) outputs *= out[i];
    const int64_t pixels = call.batch * in[0] * in[1] * in[2];
    if (micronet_arena_bytes(engine, call.batch) > kMostArena || pixels > (1 << 16)) return kLarge;
    // Exactly as long as they have to be, so that reading beyond is seen.
    const auto first = values_.begin() + static_cast<std::ptrdiff_t>(call.first_value);
    const std::vector<float> images(first, first + static_cast<std::ptrdiff_t>(pixels));
    std::vector<float> output(static_cast<size_t>(outputs));
    std::string sentence(1000, '\0');
    if (micronet_run(engine, images.data(), call.batch, output.data(), sentence.data(),
                     sentence.size()) == 0) {
      return kRan;
    }
    check_sentence(sentence);
    return kStopped;
  }

  std::vector<float> values_;
  std::vector<const char*> sets_;
};

struct Counts {
  int64_t of[kStages] = {}, inputs = 0, most_memory = 0;

  void print() const {
    std::printf("{\"inputs\":%lld", static_cast<long long>(inputs));
    for (int i = 0; i < kStages; ++i) {
      std::printf(",\"%s\":%lld", kStageNames[i], static_cast<long long>(of[i]));
    }
    std::printf(",\"most memory\":%lld}\n", static_cast<long long>(most_memory));
  }
};

void take_one(const Target& target, const Sample& whole, Counts* counts) {
  // Odd multipliers: no two of the first 2^32 inputs of a seed begin alike.
  std::mt19937 random(seed * 2654435761u + static_cast<unsigned>(number) * 2246822519u);
  leave_seconds(kMostSeconds);
  const bool is_whole = random() % 8 == 0;
  const std::vector<uint8_t> file =
      Mutation(random).of(is_whole ? whole : RandomNetwork(random).make());
  Memory::reset();
  ++counts->of[target.take(file, random)];
  ++counts->inputs;
  counts->most_memory = std::max(counts->most_memory, Memory::most());
  if (Memory::most() > most_memory(file.size())) {
    say_which();
    std::fprintf(stderr, "%zu bytes of file took %lld\n", file.size(),
                 static_cast<long long>(Memory::most()));
    std::exit(1);
  }
}

int64_t asked(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoll(text);
}

void test_changed_files(std::mt19937& random) {
  using Clock = std::chrono::steady_clock;
  seed = static_cast<unsigned>(random());
  const Sample whole = sample(random);
  const Target target(random);
  const int64_t inputs = asked("MICRONET_FUZZ_INPUTS", 0);
  const Clock::time_point end = Clock::now() + std::chrono::seconds(3);
  Counts counts;
  std::fflush(stdout);  // the seed that repeats it, before anything ends the process
  Memory::start();
  at_death(say_which);
  number = asked("MICRONET_FUZZ_FIRST", 0);
  const auto is_short = [&] { return Clock::now() < end || counts.inputs < kLeastInputs; };
  while (inputs > 0 ? counts.inputs < inputs : is_short()) {
    take_one(target, whole, &counts);
    ++number;
  }
  leave_seconds(0);
  counts.print();
  if (inputs == 0) CHECK(counts.of[kRan] > 0 && counts.of[kRan] < counts.inputs);
}

}  // namespace
}  // namespace micronet::engine

namespace micronet {

void run_tests(std::mt19937& random) { engine::test_changed_files(random); }

}  // namespace micronet
