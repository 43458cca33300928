// Convolution of codes against a loop over its products, and blocks against themselves, however
// the loops are split; every buffer ends where it must.

#include "include/block.h"
#include "include/conv_workspace.h"
#include "include/exact.h"
#include "tests/conv_problem.h"

namespace micronet {
namespace {

template <typename T>
std::vector<T> convolve(const Problem& p, Accumulator kind, const std::vector<float>& ratio,
                        const ParallelFor& parallel) {
  std::vector<T> out(static_cast<size_t>(p.s.pixels() * p.s.out_channels));
  std::vector<float> found(static_cast<size_t>(p.s.out_channels));
  std::vector<uint8_t> workspace(static_cast<size_t>(quant_conv2d_workspace(p.s)) + 64);
  void* aligned = workspace.data() + (64 - reinterpret_cast<uintptr_t>(workspace.data()) % 64);
  const QuantConv conv = p.conv(p.codes.data(), kind, out.data(), found.data());
  CHECK(quant_conv2d_cpu(conv, aligned, parallel) == kOk);
  CHECK(found == ratio);
  return out;
}

// Puts the tiles that a reader gets together.
struct Gathered {
  const ConvShape& s;
  bool in_order;
  std::vector<int32_t> sums, times;  // how often each sum came
  std::vector<int64_t> ends;         // by image and channel, where the last tile ended

  Gathered(const ConvShape& of, bool ordered)
      : s(of),
        in_order(ordered),
        sums(static_cast<size_t>(of.pixels() * of.out_channels)),
        times(sums.size()),
        ends(static_cast<size_t>(of.images * of.out_channels)) {}

  void take(const SumsTile& tile) {
    const int64_t image_pixels = s.out_height * s.out_width;
    for (int64_t p = 0; p < tile.pixels; ++p) {
      for (int64_t c = 0; c < tile.channels; ++c) {
        const int64_t pixel = tile.pixel + p, channel = tile.channel + c;
        const int64_t from = p * tile.stride + c;
        const size_t to = static_cast<size_t>(pixel * s.out_channels + channel);
        sums[to] = tile.type == kInt16 ? static_cast<const int16_t*>(tile.sums)[from]
                                       : static_cast<const int32_t*>(tile.sums)[from];
        ++times[to];
        int64_t& end = ends[static_cast<size_t>(pixel / image_pixels * s.out_channels + channel)];
        CHECK(!in_order || end == pixel % image_pixels);
        end = pixel % image_pixels + 1;
      }
    }
  }

  SumsReader reader() {
    return {
        [](void* context, const SumsTile& tile) { static_cast<Gathered*>(context)->take(tile); },
        this, in_order};
  }
};

// The same of weights that are laid out before, over codes of whole bytes and a little memory; a
// reader gets the very sums.
std::vector<int32_t> convolve_laid_out(const Problem& p, const ParallelFor& parallel) {
  std::vector<int32_t> out(static_cast<size_t>(p.s.pixels() * p.s.out_channels));
  std::vector<float> ratio(static_cast<size_t>(p.s.out_channels));
  std::vector<uint8_t> workspace(static_cast<size_t>(quant_conv2d_weight_bytes(p.s)) + 64);
  uint8_t* aligned = workspace.data() + (64 - reinterpret_cast<uintptr_t>(workspace.data()) % 64);
  std::vector<uint8_t> codes(static_cast<size_t>(p.s.in_numel()) + 64, 255);
  for (int64_t i = 0; i < p.s.in_numel(); ++i) {
    codes[static_cast<size_t>(i)] = static_cast<uint8_t>(code_at(p.codes, i, p.of.levels));
  }
  QuantConv conv = p.conv(codes.data(), kInt32, out.data(), ratio.data());
  conv.has_whole_bytes = true;
  const ConvWorkspace at(p.s);
  std::vector<float> memory(static_cast<size_t>(at.bytes / 4));
  const Weight weight = at.weight_of(conv, memory.data());
  CHECK(quantize_per_channel_cpu(weight, kFloat32, p.of.weight_scheme, parallel) == kOk);
  const WeightCodes weights = at.codes_in(memory.data());
  CHECK(lay_out_weights_cpu(conv, weights, aligned, parallel) == kOk);
  CHECK(quant_conv2d_laid_out_cpu(conv, aligned, parallel) == kOk);
  for (const bool in_order : {false, true}) {
    for (const Accumulator kind : {kInt16, kInt32}) {
      if (kind == kInt16 && !p.fits_16_bits()) continue;
      Gathered gathered(p.s, in_order);
      const SumsReader reader = gathered.reader();
      conv.kind = kind;  // which says how weights are laid out
      conv.reader = &reader;
      conv.out = nullptr;
      CHECK(lay_out_weights_cpu(conv, weights, aligned, parallel) == kOk);
      CHECK(quant_conv2d_laid_out_cpu(conv, aligned, parallel) == kOk);
      CHECK(gathered.sums == out);
      CHECK(gathered.times.size() == out.size());
      for (const int32_t times : gathered.times) CHECK(times == 1);
    }
  }
  return out;
}

// A problem, and what every instruction set has to make of it.
struct Expected {
  Problem p;
  Skipping when;
  std::vector<int> weights, sums;
  std::vector<float> ratio, values;

  Expected(std::mt19937& random, const ConvShape& s, const Precision& of, Skipping skipping)
      : p(draw(random, s, of, skipping == kAlways ? 0.9 : 0.5)), when(skipping) {
    weights = quantized(&ratio);
    sums = expected_sums(p, weights);
    for (size_t i = 0; i < sums.size(); ++i) {
      values.push_back(static_cast<float>(sums[i]) * ratio[i % ratio.size()]);
    }
  }

  std::vector<int> quantized(std::vector<float>* found) const {
    const auto quantize = [&](const Weight& weight) {
      return quantize_per_channel_cpu(weight, kFloat32, p.of.weight_scheme, kRunners[0]);
    };
    return integers(p, quantize, found);
  }
};

void sums_are_those_of_a_loop(const Expected& expected, const ParallelFor& parallel) {
  const Problem& p = expected.p;
  set_skipping(expected.when);
  std::vector<float> ratio;
  CHECK(expected.quantized(&ratio) == expected.weights && ratio == expected.ratio);
  const auto whole = convolve<int32_t>(p, kInt32, ratio, parallel);
  CHECK(whole == expected.sums);
  CHECK(convolve_laid_out(p, parallel) == whole);
  const auto values = convolve<float>(p, kValue, ratio, parallel);
  for (size_t i = 0; i < values.size(); ++i) CHECK(same(values[i], expected.values[i]));
  if (!p.fits_16_bits()) return;
  const auto narrow = convolve<int16_t>(p, kInt16, ratio, parallel);
  CHECK(std::equal(narrow.begin(), narrow.end(), expected.sums.begin()));
}

// Every runner and instruction set gives the same codes, means and gradients.
void blocks_are_the_same_however_split(std::mt19937& random, int64_t channels, int64_t positions,
                                       std::vector<std::vector<float>>* answers) {
  const int64_t images = 3, numel = images * positions * channels;
  const std::vector<float> acc = normals(random, numel), grad = normals(random, numel);
  const std::vector<float> scale = normals(random, channels), shift = normals(random, channels);
  const std::vector<float> gate = normals(random, images * channels),
                           k = normals(random, 3 * channels);
  const float range[] = {-0.4f, 0.9f};
  const Coding coding{range, 16, kAffine};
  for (const ParallelFor& parallel : kRunners) {
    for (const float* gated : {static_cast<const float*>(nullptr), gate.data()}) {
      const Block block{acc.data(),   kValue,       images, positions, channels,
                        scale.data(), shift.data(), kSwish, gated};
      std::vector<uint8_t> codes(static_cast<size_t>(code_bytes(numel, coding.levels)));
      std::vector<float> all(static_cast<size_t>(numel)),
          means(static_cast<size_t>(images * channels));
      std::vector<double> partial(static_cast<size_t>(block_units(block) * 2 * channels));
      std::vector<double> sums(static_cast<size_t>(2 * channels));
      std::vector<float> extremes(2), ends(static_cast<size_t>(2 * block_units(block)));
      CHECK(block_codes_cpu(block, coding, codes.data(), parallel) == kOk);
      CHECK(block_extremes_cpu(block, ends.data(), extremes.data(), parallel) == kOk);
      std::vector<float> answer(codes.begin(), codes.end());
      answer.insert(answer.end(), extremes.begin(), extremes.end());
      CHECK(block_values_cpu(block, all.data(), parallel) == kOk);
      answer.insert(answer.end(), all.begin(), all.end());
      if (gated != nullptr) {
        const BlockGradient gradient{grad.data(), kFloat32, coding, nullptr};
        CHECK(block_gate_gradient_cpu(block, gradient, all.data(), means.data(), parallel) == kOk);
      } else {
        const BlockGradient gradient{grad.data(), kFloat32, coding, gate.data()};
        CHECK(block_means_cpu(block, means.data(), parallel) == kOk);
        CHECK(block_gradient_cpu(block, gradient, k.data(), all.data(), kFloat32, parallel) == kOk);
        CHECK(block_gradient_sums_cpu(block, gradient, partial.data(), sums.data(), parallel) ==
              kOk);
        answer.insert(answer.end(), sums.begin(), sums.end());
        std::vector<double> again(sums.size());
        std::vector<float> kept(all.size());
        CHECK(block_gradient_kept_cpu(block, gradient, partial.data(), again.data(), kept.data(),
                                      parallel) == kOk);
        CHECK(norm_gradient_cpu(block, k.data(), kept.data(), parallel) == kOk);
        CHECK(again == sums && kept == all);
      }
      answer.insert(answer.end(), all.begin(), all.end());
      answer.insert(answer.end(), means.begin(), means.end());
      answers->push_back(answer);
    }
  }
}

void lanes_are_summed_in_order(std::mt19937& random) {
  for (const int64_t depth : {1, 15, 16, 17, 130}) {
    const std::vector<float> x = normals(random, depth), w = normals(random, depth);
    float lanes[kLanes] = {};
    for (int64_t k = 0; k < depth; ++k) {
      const size_t at = static_cast<size_t>(k);
      lanes[k % kLanes] = std::fma(x[at], w[at], lanes[k % kLanes]);
    }
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    }
    const float ratio = 0.3f, bias = 0.7f;
    float y = 0.0f;
    CHECK(linear_deterministic_cpu(x.data(), w.data(), &ratio, &bias, 1, depth, 1, &y,
                                   kRunners[0]) == kOk);
    CHECK(same(y, std::fma(lanes[0], ratio, bias)));
  }
}

}  // namespace

void run_tests(std::mt19937& random) {
  const unsigned seed = static_cast<unsigned>(random());
  std::vector<std::vector<std::vector<float>>> found;
  constexpr Skipping kSkippings[] = {kByRule, kNever, kAlways};
  // Each shape with each precision, and with them one way to skip and, by each instruction set, one
  // runner: all pairs of the five meet. Of three precisions in a row skipping changes, and of the
  // next three the runner, so that a shape has all pairs of those two as well.
  size_t first = random() % 3, first_runner = random() % 3;
  for (const ConvShape& shape : kShapes) {
    size_t next = first++, runner = 3 * first_runner++;
    for (const Precision& of : kPrecisions) {
      const Expected expected(random, shape, of, kSkippings[next++ % 3]);
      size_t turn = runner++ / 3;
      on_every_instruction_set([&] { sums_are_those_of_a_loop(expected, kRunners[turn++ % 3]); });
    }
  }
  on_every_instruction_set([&] {
    lanes_are_summed_in_order(random);
    std::mt19937 again(seed);
    std::vector<std::vector<float>> answers;
    blocks_are_the_same_however_split(again, 7, 33, &answers);
    blocks_are_the_same_however_split(again, 600, 3, &answers);
    found.push_back(answers);
  });
  for (const auto& answers : found) {
    CHECK(answers == found[0]);
    // Two calls by three runners: a runner changes nothing.
    for (size_t i = 0; i < answers.size(); ++i) CHECK(answers[i] == answers[i / 6 * 6 + i % 2]);
  }
}

}  // namespace micronet
